"""Every pool in a folder of one's own: ``BGPM_REAL_DATA=/some/folder pytest tests/data``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bgpm.data.dedup import normalise
from bgpm.data.prepare import Prepared

FOLDER = os.environ.get("BGPM_REAL_DATA")
FILES = sorted(path for path in Path(FOLDER).iterdir() if ".jsonl" in path.name) if FOLDER else []


@pytest.mark.skipif(not FILES, reason="set BGPM_REAL_DATA to a folder of .jsonl or .jsonl.gz pools")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_real_pool_is_prepared_and_every_row_accounted_for(path: Path, run: Callable[..., Prepared]) -> None:
    prepared = run(path)
    print(path.name, json.dumps(prepared.summary))
    summary = prepared.summary
    dropped = sum(reason["count"] for reason in summary["dropped"].values())
    assert sum(split["pairs"] for split in summary["splits"].values()) + dropped == summary["rows"]
    prompts = prepared.pool["prompts"]
    by_split = {s: {normalise(t) for t in prompts["text"][prompts["split"] == s]} for s in ("pool", "heldout")}
    assert not by_split["pool"] & by_split["heldout"]
    label = np.concatenate([prepared.truth[s]["label"] for s in by_split])
    assert abs(np.nanmean(label) - 0.5) < 5 * 0.5 / np.sqrt(len(label))
