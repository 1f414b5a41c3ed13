"""The end of a pool ends a campaign: the loop asks selectors for what there is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bgpm.acquisition.entropy import Entropy
from bgpm.loop.pool import Pool
from bgpm.loop.score import score
from bgpm.loop.select import select
from bgpm.registry import build, kinds
from bgpm.selection import Selection
from bgpm.types import ScoreMoments


class Model:
    """The linear-Gaussian model of `make_pool`, as a posterior."""

    def __init__(self, pool):
        self.pool = pool

    def moments(self, features, pairs):
        of = self.candidates(pairs)
        return ScoreMoments(torch.from_numpy(of.mean), torch.from_numpy(of.variance), of.tau)

    def kernel(self, features, pairs):
        return self.candidates(pairs).kernel()

    def candidates(self, pairs):
        return replace(self.pool, pairs=pairs, keys=np.arange(len(pairs))).candidates()


@pytest.mark.parametrize("kind", kinds(Selection))
@pytest.mark.parametrize("left", [7, 3, 0])
def test_a_batch_is_what_was_asked_for_or_what_is_left(kind, left, make_pool):
    drawn = make_pool(prompts=3)
    n = len(drawn.pairs)
    table = {
        "response_a": drawn.pairs.response_a,
        "response_b": drawn.pairs.response_b,
        "prompt": drawn.pairs.prompt,
        "key": drawn.keys,
        "pair_id": np.array([f"id {row}" for row in range(n)], object),
        "split": np.full(n, "pool", object),
    }
    pool, model = Pool(table, drawn.features), Model(drawn)
    acquired = np.arange(left, n)
    scores = score(Entropy(), model, pool, acquired, generator=np.random.default_rng(0))
    batch = select(build(Selection, kind, {}), pool, scores, lambda: model, 5, generator=np.random.default_rng(1))
    assert len(batch["pair"]) == min(left, 5)
    assert set(batch["pair"].tolist()) <= set(range(left))
    assert {name: len(column) for name, column in batch.items()} == dict.fromkeys(batch, min(left, 5))
