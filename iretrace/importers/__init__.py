"""Other people's events become a trace: one module a format, each with a function ``load``."""
