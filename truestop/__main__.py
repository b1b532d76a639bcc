"""`python -m truestop`: the command line."""

from truestop.cli import main

main()
