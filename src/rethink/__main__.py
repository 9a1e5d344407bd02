"""`python -m rethink`, the same as the command `rethink` (and what torchrun starts)."""

from rethink.cli import main

main()
