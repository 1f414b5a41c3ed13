"""Held-out labels that people gave: `prepare` takes them where enough people answered, and names what it does not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, tiny_benchmark, tiny_pool, write_jsonl

from bgpm.data.tables import read_table
from bgpm.errors import DataError
from bgpm.stage import HELDOUT_ANNOTATIONS, TRUTH, read_params
from stages.prepare import main


@pytest.fixture
def heldout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A project without labels in which a pair needs two people; the names of its held-out pairs."""
    params = read_params(ROOT / "params.yaml")
    bare = [{name: value for name, value in row.items() if name != "label"} for row in tiny_pool(8)]
    params["pool"]["path"] = str(write_jsonl(tmp_path / "pool.jsonl", bare))
    params["benchmark"]["path"] = str(write_jsonl(tmp_path / "benchmark.jsonl", tiny_benchmark()))
    params["oracle"] = "human"
    params["oracles"]["human"]["annotators_per_pair"] = 2
    (tmp_path / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    main()
    assert "held-out answers" not in json.loads((TRUTH / "summary.json").read_text(encoding="utf-8"))["pool"]
    return read_table(TRUTH / "heldout.parquet")["pair_id"].tolist()


def said(pair_id: str, label: float | None, annotator: str) -> dict[str, Any]:
    return {"pair_id": pair_id, "label": label, "annotator": annotator}


def test_a_held_out_pair_counts_once_enough_people_answered_it(
    heldout: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = heldout[:3]
    lines = [
        said(one, 1, "ada"),
        said(one, 0.5, "bo"),
        said(two, 1, "ada"),
        said(three, 0, "bo"),
        said(three, None, "cy"),
    ]
    write_jsonl(HELDOUT_ANNOTATIONS / "people.jsonl", lines)
    caplog.set_level(logging.WARNING, "bgpm")
    main()
    labels = read_table(TRUTH / "heldout.parquet")["label"]
    np.testing.assert_array_equal(labels[:3], [0.75, np.nan, 0.0])
    summary = json.loads((TRUTH / "summary.json").read_text(encoding="utf-8"))
    assert summary["pool"]["held-out answers"] == {"pairs": 3, "too few people": [two]}
    assert f"1 of 3 answered pairs wait for 2 people each and do not count yet, the first is {two}" in caplog.text


def test_a_held_out_pair_that_the_pool_does_not_have_is_named(heldout: list[str]) -> None:
    path = write_jsonl(HELDOUT_ANNOTATIONS / "by-hand.jsonl", [said(heldout[0], 1, "ada"), said("nobody's", 1, "ada")])
    with pytest.raises(DataError, match=f'{path}:2: pair "nobody\'s" is not in the pool; mend pair_id'):
        main()
