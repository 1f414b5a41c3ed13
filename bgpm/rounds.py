"""Print the ``rounds`` of params.yaml for a number of rounds.

For the command line::

    dvc exp run -S "rounds=$(bgpm rounds 12)"
"""

from __future__ import annotations

import argparse
import sys

from bgpm.errors import ConfigError


def rounds(n: int) -> str:
    """n rounds as one line of YAML, which DVC's ``-S`` takes."""
    if n < 1:
        raise ConfigError(f"rounds: at least 1, got {n}")
    return "[" + ", ".join(f"{{k: {k}, next: {k + 1}}}" for k in range(n)) + "]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``bgpm rounds``."""
    parser.add_argument("number", type=int, metavar="NUMBER", help="how many")


def run(given: argparse.Namespace) -> None:
    """Print them; ConfigError where there are none."""
    print(rounds(given.number))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal() or int(sys.argv[1]) < 1:
        sys.exit("usage: python -m bgpm.rounds NUMBER")
    print(rounds(int(sys.argv[1])))
