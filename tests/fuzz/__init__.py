"""Fuzzing of everything that reads files: ``python -m tests.fuzz FORMAT [SECONDS]``, or ``make fuzz`` for all."""
