"""Which round `bgpm export --pool ARM` takes, and whose labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from bgpm.data.tables import write_table
from bgpm.errors import StateError
from bgpm.pool_export import folder_of, read_preferences


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    """An arm of three rounds, with two more that an earlier, longer run left."""
    (tmp_path / "params.yaml").write_text("rounds: [{k: 0, next: 1}, {k: 1, next: 2}, {k: 2, next: 3}]")
    for k in range(6):
        (tmp_path / f"data/auto/round-{k}").mkdir(parents=True)
        (tmp_path / f"data/auto/round-{k}/pool_labels.parquet").touch()
    return tmp_path / "data/auto"


def test_of_an_arm_the_last_round_of_this_run_is_exported(arm: Path, tmp_path: Path) -> None:
    assert folder_of(arm, tmp_path) == arm / "round-3"
    (arm / "round-1/waiting.json").touch()  # a run that changed came only as far
    assert folder_of(arm, tmp_path) == arm / "round-1"
    assert folder_of(arm / "round-5", tmp_path) == arm / "round-5"  # named


def test_rounds_behind_a_seed_set_that_waits_are_of_an_earlier_run(arm: Path, tmp_path: Path) -> None:
    (tmp_path / "data/start").mkdir()
    (tmp_path / "data/start/waiting.json").touch()
    with pytest.raises(StateError, match="the seed set waits for labels"):
        folder_of(arm, tmp_path)
    assert folder_of(arm / "round-2", tmp_path) == arm / "round-2"


def test_nobodys_word_is_overruled_by_a_model(tmp_path: Path) -> None:
    pool, here = tmp_path / "data/pool", tmp_path / "data/auto/round-1"
    names = np.array(["a", "b", "c", "d"])
    write_table(pool / "prompts.parquet", {"messages": ['[{"role": "user", "content": "q"}]']})
    write_table(pool / "responses.parquet", {"text": [f"{side} {name}" for name in names for side in ("one", "two")]})
    sides = {"response_a": 2 * np.arange(4), "response_b": 2 * np.arange(4) + 1}
    write_table(pool / "pairs.parquet", {"pair_id": names, "prompt": np.zeros(4, int), **sides})
    inferred = {
        "probability": np.array([1.0, 0.9, 0.9, 0.9]),
        "label": np.ones(4),
        "audit": [np.nan, np.nan, 1, np.nan],
    }
    source = np.array(["acquired", "inferred", "audit", "inferred"])
    write_table(
        here / "pool_labels.parquet",
        {"seed": np.zeros(4, int), "pair": np.arange(4), "pair_id": names, "source": source, **inferred},
    )
    said = "".join(json.dumps({"pair_id": name, "label": 0, "annotator": "ada"}) + "\n" for name in "abc")
    (tmp_path / "data/annotations").mkdir()
    (tmp_path / "data/annotations/ada.jsonl").write_text(said, encoding="utf-8")
    found = {}
    for oracle in ("human", "recorded"):
        params = {"oracle": oracle, "oracles": {"human": {}, "recorded": {}}}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        found[oracle] = read_preferences(here, 0, tmp_path)
    assert found["human"].chosen == ["one a", "two b", "one c", "one d"]
    assert found["human"].probability.tolist() == [1.0, 1.0, 1.0, 0.9]
    assert found["human"].counts() == {"acquired": 1, "audit": 1, "inferred": 1, "annotated": 1}
    assert found["recorded"].chosen == ["one a", "one b", "one c", "one d"]


def test_an_arm_without_labels_of_this_run_is_refused(arm: Path, tmp_path: Path) -> None:
    for k in range(4):
        (arm / f"round-{k}/pool_labels.parquet").unlink()
    with pytest.raises(StateError, match=r"no pool_labels\.parquet there, and in no round-K below"):
        folder_of(arm, tmp_path)
