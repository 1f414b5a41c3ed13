"""Every acquisition function on 10,000, 100,000 and 1,000,000 pairs: how its time grows with the pool.

The reference is a tenth of the pairs (1,000 for the smallest), so that "times faster" is 1 where the time grows as the
pool does, and 0.83 where it is 12 times for 10 times the pool. Four pairs a prompt, 64 features with the spectrum of
principal components, a linear model with independent weights, 256 pairs acquired before.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks._table import Line, main, peak_mib, seconds
from benchmarks.selection import pool
from bgpm.acquisition import Acquisition
from bgpm.registry import build, kinds
from bgpm.types import Candidates, Features

FUNCTIONS = [kind for kind in kinds(Acquisition) if kind != "auto"]  # which stands for another
SIZES = (10_000, 100_000, 1_000_000)
WIDTH = 64


def candidates(pairs: int) -> Candidates:
    """A pool of so many pairs on a quarter as many prompts."""
    c, prompts = pool(pairs, WIDTH), max(1, pairs // 4)
    spectrum = np.sqrt(np.arange(1, WIDTH + 1, dtype=np.float32))
    asked = np.random.default_rng(1).standard_normal((prompts, WIDTH), dtype=np.float32) / spectrum
    own = replace(c.pairs, prompt=np.arange(pairs) % prompts)
    return replace(
        c, pairs=own, features=Features(c.features.responses, asked), acquired=own.take(np.arange(min(256, pairs)))
    )


def measure(kind: str, pairs: int, scale: float) -> Line:
    function, n = build(Acquisition, kind, {}), max(1000, round(pairs * scale))
    small, big = candidates(n // 10), candidates(n)
    function(candidates(300), generator=np.random.default_rng(0))  # imports and warms up
    _, before = seconds(lambda: function(small, generator=np.random.default_rng(0)), 3)
    held = peak_mib()
    wall, cpu = seconds(lambda: function(big, generator=np.random.default_rng(0)))
    what = f"{kind}, {n:,} pairs"
    return Line(what, wall, cpu, held, peak_mib(), f"{n // 10:,} pairs", before, 10 * before / cpu)


CASES = {f"{kind}-{pairs}": partial(measure, kind, pairs) for kind in FUNCTIONS for pairs in SIZES}

if __name__ == "__main__":
    main("benchmarks.acquisition", __doc__ or "", CASES)
