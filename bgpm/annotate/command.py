"""``bgpm annotate``: ask people, in their browser, for the labels that the loop waits for."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from bgpm.annotate.batches import (
    OpenBatch,
    PoolTexts,
    contradicted,
    heldout,
    named,
    to_come,
    version,
    waiting,
    waiting_since,
)
from bgpm.annotate.desk import Desk, checks_path, store_path
from bgpm.annotate.overview import overview
from bgpm.annotate.rounds import Rounds, runs_here
from bgpm.annotate.server import Server, access, read_guidelines, serve
from bgpm.annotations.checks import Check
from bgpm.annotations.store import LabelStore, folder_by_pair
from bgpm.errors import ConfigError
from bgpm.oracles.human import Human
from bgpm.sections import section
from bgpm.stage import ANNOTATIONS, HELDOUT_ANNOTATIONS, POOL, read_params

RESERVE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--batch", type=Path, help="a batch.parquet; default: whatever `dvc repro` stopped at")
    what.add_argument("--heldout", action="store_true", help="held-out pairs without a recorded label, in random order")
    what.add_argument("--run", dest="rounds", action="store_true", help="run the next round when a batch is complete")
    parser.add_argument(
        "--reserve",
        type=int,
        metavar="N",
        help=f"with --run: pairs to annotate while a round runs; default: {RESERVE}, 0 for none",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="with --heldout: at most N pairs")
    parser.add_argument("--guidelines", type=Path, metavar="FILE", help="Markdown that is shown with each pair")
    parser.add_argument("--address", default="127.0.0.1", help="to listen on; default: %(default)s, this machine alone")
    parser.add_argument("--port", type=int, default=8765, help="default: %(default)s; 0 for any free one")
    parser.add_argument("--token", help="what others need to get in; made and printed where it is needed and not given")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        help="a further name that people reach this page by, a proxy's; makes a token",
    )


def run(given: argparse.Namespace) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: For options that do not go together.
        StateError: If there is no pool yet, nothing to ask, or another process writes labels.
    """
    if given.limit is not None and (not given.heldout or given.limit < 1):
        raise ConfigError("--limit: expected a number above 0, together with --heldout")
    if given.reserve is not None and (not given.rounds or given.reserve < 0):
        raise ConfigError("--reserve: expected a number from 0, together with --run")
    if not 0 <= given.port <= 65535:
        raise ConfigError(f"--port {given.port}: expected 1 to 65535, or 0 for any free one")
    _now()
    if given.guidelines:
        read_guidelines(given.guidelines)
    texts = PoolTexts(POOL)
    folder = HELDOUT_ANNOTATIONS if given.heldout else ANNOTATIONS
    if given.heldout:
        look = partial(list, [heldout(folder_by_pair(folder, "human"), given.limit)])
    elif given.batch:
        look = partial(_named, given.batch)
    else:
        look = _waiting
    allowed = access(given.address, given.token, given.host)
    ahead = (RESERVE if given.reserve is None else given.reserve) if given.rounds else 0
    with ExitStack() as held:
        if given.rounds:
            held.enter_context(runs_here())
        store = held.enter_context(LabelStore(store_path(folder)).writer())
        checks = held.enter_context(LabelStore(checks_path(folder), Check).writer())
        split = "heldout" if given.heldout else "pool"
        desk = Desk(texts, look, store, lambda: _now()[1], ahead, checks, split, _contradicted, _planned)
        rounds = Rounds(desk.complete, lambda: waiting_since(_now()[0]), desk.quiet) if given.rounds else None
        server = held.enter_context(
            Server(desk, lambda: overview(desk, _now()[0], rounds), allowed, given.port, rounds, given.guidelines)
        )
        current = desk.current()
        print(f"{current.title}: {len(desk.open_pairs(current))} pairs wait" if current else "no batch waits yet")
        print(f"label at {server.url} (Ctrl-C ends it); annotations go to {store.path}", flush=True)
        if rounds:
            held.callback(rounds.close)
            rounds.start()
        serve(server)


def _named(path: Path) -> list[OpenBatch]:
    """The batch of a file, read anew when that changed."""
    return [_named_version(path, version(path))]


@lru_cache(maxsize=1)
def _named_version(path: Path, _: tuple[int, ...] | None) -> OpenBatch:
    return named(path)


def _contradicted() -> str:
    return contradicted(_now()[0])


def _waiting() -> list[OpenBatch]:
    return waiting(_now()[0])


def _now() -> tuple[dict[str, Any], Human]:
    """params.yaml as it is now, with the settings of people: rounds are added while the page is open."""
    return _read(version(Path("params.yaml")))  # which says so where there is none


def _planned(batch: OpenBatch) -> int:
    return to_come(batch, _now()[0])


@lru_cache(maxsize=1)
def _read(_: tuple[int, ...] | None) -> tuple[dict[str, Any], Human]:
    params = read_params()
    return params, section(params, "oracles.human", Human)
