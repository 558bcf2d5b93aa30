"""`python -m stepreel.cli`, where the console script is not on the path."""

from . import main

main(prog_name="stepreel")
