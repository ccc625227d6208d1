"""``python -m crynux_async.cli``."""

from crynux_async.cli import main

main()
