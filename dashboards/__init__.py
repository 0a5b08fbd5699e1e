"""Frames in, figures out: the offline HTML report."""
