"""The command line: ``bgpm COMMAND``, or ``python -m bgpm COMMAND`` from a checkout that is not installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from bgpm.environment import require_libraries
from bgpm.errors import BgpmError, visible


class Command(NamedTuple):
    """Where a command lives: its module, the functions that add its options and that run it, and what it is for."""

    module: str
    add: str
    run: str
    help: str


COMMANDS = {
    "init": Command(
        "bgpm.campaign", "add_arguments", "run", "make a campaign of your own, in a folder outside the repository"
    ),
    "annotate": Command(
        "bgpm.annotate.command", "add_arguments", "run", "ask people for labels, on a page in their browser"
    ),
    "score": Command(
        "bgpm.apply", "add_score", "score", "how sure a trained model is of which response of each pair is better"
    ),
    "rank": Command("bgpm.apply", "add_rank", "rank", "put the responses to each prompt in order with a trained model"),
    "export": Command(
        "bgpm.apply", "add_export", "export", "a preference data set of responses, as a trained model prefers them"
    ),
    "labels": Command("bgpm.labels", "add_arguments", "run", "labels to and from other tools"),
    "batch": Command("bgpm.show", "add_arguments", "run", "print the pairs of a batch with their texts, as JSONL"),
    "rounds": Command(
        "bgpm.rounds", "add_arguments", "run", "print the list of acquisition rounds for `-S rounds=...`"
    ),
    "repair": Command(
        "bgpm.recovery", "add_arguments", "run", "mend what a killed `dvc repro` left behind, if anything"
    ),
    "study": Command("bgpm.study.sources", "add_arguments", "run", "put the files that the study reads into place"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an expected error is one line and exit code 1."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = parser(next((word for word in words if word in COMMANDS), None)).parse_args(words)
    try:
        given.run(given)
    except (BgpmError, OSError) as error:
        sys.exit(f"error: {visible(str(error))}")


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the command line; only this command's module is imported and knows its options."""
    root = argparse.ArgumentParser("bgpm", description="Preference models that say which labels they need.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, entry in COMMANDS.items():
        part = commands.add_parser(name, help=entry.help)
        if name == command:
            try:
                module = import_module(entry.module)
            except ModuleNotFoundError:
                require_libraries()
                raise
            getattr(module, entry.add)(part)
            part.set_defaults(run=getattr(module, entry.run))
    return root


if __name__ == "__main__":
    main()
