"""When audits begin."""

from __future__ import annotations

import numpy as np

from bgpm.data.tables import Table
from bgpm.loop import audits

POOL = 10


def scores(seed: int, logits: list[float]) -> Table:
    return {"seed": np.full(len(logits), seed), "probability": 1 / (1 + np.exp(-np.array(logits)))}


def both(one: Table, other: Table) -> Table:
    return {name: np.concatenate([one[name], other[name]]) for name in one}


def test_audits_begin_with_the_batch_before_which_the_model_expects_the_share() -> None:
    logits = [2.0, -3.0, 0.5, -0.1]
    share = (POOL - 4 + sum(1 / (1 + np.exp(-abs(z))) for z in logits)) / POOL  # by hand: acquired pairs are right
    given = both(scores(3, logits), scores(5, [0.0, 0.0, 0.0, 0.0]))
    assert audits.begun(given, audits.none(), share - 1e-6, POOL, (3, 5)) == [3]
    assert audits.begun(given, audits.none(), share + 1e-6, POOL, (3, 5)) == []
    assert audits.begun(given, audits.none(), 0.8, POOL, (3, 5)) == [3, 5]
    assert audits.begun(given, audits.none(), 0.8 + 1e-6, POOL, (5,)) == []


def test_a_seed_that_was_audited_goes_on_and_what_its_audits_said_changes_nothing() -> None:
    for label in (0.0, 1.0, np.nan):
        before = audits.none() | {"seed": np.array([5]), "label": np.array([label])}
        given = both(scores(3, [0.0] * 9), scores(5, [0.0] * 9))
        assert audits.begun(given, before, 0.99, POOL, (3, 5)) == [5]


def test_before_the_first_model_only_a_begin_of_0_audits() -> None:
    assert audits.begun(None, audits.none(), 0.0, POOL, (0, 1)) == [0, 1]
    assert audits.begun(None, audits.none(), 0.01, POOL, (0, 1)) == []


def test_where_nothing_is_left_to_infer_everything_is_expected_to_be_right() -> None:
    assert audits.begun(scores(0, []), audits.none(), 0.999, POOL, (0,)) == [0]
