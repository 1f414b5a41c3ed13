"""Active learning in 20 lines: 200 pairs with a planted preference, 60 labels; accuracy on the pairs not labelled.

Run it from the repository's root: ``python -m examples.loop``.
"""

from __future__ import annotations

import numpy as np

from bgpm import Features, Loop, Pairs, Pool, StartSettings, build
from bgpm.acquisition import Acquisition

rng = np.random.default_rng(0)
responses = rng.standard_normal((400, 8)).astype(np.float32)  # two responses for each of 200 prompts, 8 features each
prompt = np.arange(200)
pairs = Pairs(2 * prompt, 2 * prompt + 1, prompt)
reward = responses @ rng.standard_normal(8)  # what the annotator likes
better = (reward[pairs.response_a] > reward[pairs.response_b]).astype(float)

pool = Pool.of(Features(responses, rng.standard_normal((200, 8)).astype(np.float32)), pairs)
loop = Loop(
    pool,
    source=lambda rows: better[rows],  # ask your annotators here
    acquisition=build(Acquisition, "entropy", {}),
    start=StartSettings(labels=10),
    batch_size=10,
)
for done in loop.rounds(budget=60):
    rest = np.setdiff1d(pool.open, done.labels["pair"])
    right = (done.model.moments(pool.features, pairs.take(rest)).mean.numpy() > 0) == (better[rest] > 0.5)
    print(f"round {done.number}: {len(done.labels['pair'])} labels, accuracy {right.mean():.3f}")
