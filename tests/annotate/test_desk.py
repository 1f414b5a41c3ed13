"""The desk keeps count answer by answer: as a count anew would have it, and without reading the batch again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from bgpm.annotate import batches
from bgpm.annotate.batches import OpenBatch, PoolTexts, waiting
from bgpm.annotate.desk import Desk, Progress, store_path
from bgpm.annotations.store import Annotation, LabelStore
from bgpm.oracles.human import Human
from bgpm.stage import ANNOTATIONS, POOL

PARAMS = {"acquisition": "entropy", "baseline": "entropy", "rounds": [{"k": 0, "next": 1}]}


@pytest.fixture
def desk(campaign: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(campaign(pairs=30).root)
    with LabelStore(store_path(ANNOTATIONS)).writer() as store:
        yield Desk(PoolTexts(POOL), partial(waiting, PARAMS), store, lambda: Human(annotators_per_pair=2))


def test_the_count_of_a_batch_is_what_counting_anew_gives(desk: Desk) -> None:
    rng = random.Random(0)
    given: list[tuple[str, str, str]] = []
    for n in range(150):
        name, pair = rng.choice(["ada", "bo", "cy"]), f"pair-{rng.randrange(30)}"
        if given and rng.random() < 0.15:
            id, who, _ = given.pop(rng.randrange(len(given)))
            desk.undo(id=id, annotator=who)
        else:
            desk.annotate(id=str(n), annotator=name, pair_id=pair, choice="left", shown="ab", seconds=1.0)
            given.append((str(n), name, pair))
        who = {f"pair-{p}": {name for _, name, pair in given if pair == f"pair-{p}"} for p in range(30)}
        state = desk.state(name)
        assert state["finished"] == sum(len(names) > 1 for names in who.values())
        assert state["mine"] == sum(name in names for names in who.values())
        assert state["extra"] == sum(len(names) > 1 and name not in names for names in who.values())
        needed = [p for p, names in who.items() if len(names) < 2 and name not in names]
        assert {q["pair_id"] for q in state["queue"]} <= set(needed)
        assert len(state["queue"]) == min(4, len(needed))
        assert desk.open_pairs(desk.batches()[0]) == [p for p, names in who.items() if len(names) < 2]


def test_a_batch_is_read_once_however_many_answers_come(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.state("ada")
    read: list[object] = []
    table = batches.read_table
    monkeypatch.setattr(batches, "read_table", lambda path, *more: read.append(path) or table(path, *more))
    for n in range(10):
        desk.annotate(id=str(n), annotator="ada", pair_id=f"pair-{n}", choice="left", shown="ab", seconds=1.0)
        assert desk.state("ada")["mine"] == n + 1
    assert not read


def test_a_second_answer_of_one_person_is_no_second_person() -> None:
    said = {"p": {"ada": Annotation("p", 1.0, "ada", "")}}
    progress = Progress(OpenBatch("b", ("p", "q")), said, 2)
    progress.add("p", "ada")
    assert list(progress.open) == ["p", "q"]
    progress.add("p", "bo")
    assert list(progress.open) == ["q"]
    progress.add("elsewhere", "bo")
    assert progress.mine == {"ada": {"p"}, "bo": {"p"}}
