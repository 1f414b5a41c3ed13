"""The command line: ``bgpm COMMAND``, or ``python -m bgpm COMMAND`` from a checkout that is not installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from bgpm.errors import BgpmError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what goes wrong on purpose is one line and exit code 1."""
    parser = argparse.ArgumentParser("bgpm", description="Preference models that say which labels they need.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _annotate(commands.add_parser("annotate", help="ask people for labels, on a page in their browser"))
    _apply(commands)
    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except (BgpmError, OSError) as error:
        sys.exit(f"error: {error}")


def _annotate(parser: argparse.ArgumentParser) -> None:
    from bgpm.annotate.command import add_arguments, run

    add_arguments(parser)
    parser.set_defaults(run=run)


def _apply(commands: Any) -> None:
    from bgpm.apply import add_export, add_rank, add_score

    add_score(commands.add_parser("score", help="how sure a trained model is of which answer of each pair is better"))
    add_rank(commands.add_parser("rank", help="put the answers to each prompt in order with a trained model"))
    add_export(commands.add_parser("export", help="a preference data set of answers, as a trained model prefers them"))
