"""Traces and results in other tools' formats: one module a format, streaming, memory bounded by a batch."""
