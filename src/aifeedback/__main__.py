"""``python -m aifeedback``."""

from aifeedback.cli import main

main()
