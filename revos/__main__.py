"""`python -m revos`: the command line, where the script `revos` is not on the path."""

from revos.cli import main

main()
