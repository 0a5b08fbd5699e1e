"""``python -m iretrace``."""

from iretrace.cli import main

main()
