"""Frames in, frames out: rates, latencies, savings."""
