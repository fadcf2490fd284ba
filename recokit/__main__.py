"""``python -m recokit`` is the command ``recokit``."""

from recokit.cli import main

main()
