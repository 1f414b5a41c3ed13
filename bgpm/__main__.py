"""``python -m bgpm COMMAND``."""

from bgpm.cli import main

main()
