"""python -m qedge.toolkit: the same as the command qedge."""

from qedge.toolkit.cli import main

main()
