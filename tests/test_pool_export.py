"""Which round `bgpm export --pool ARM` takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgpm.errors import StateError
from bgpm.pool_export import folder_of


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


def test_an_arm_without_labels_of_this_run_is_refused(arm: Path, tmp_path: Path) -> None:
    for k in range(4):
        (arm / f"round-{k}/pool_labels.parquet").unlink()
    with pytest.raises(StateError, match=r"no pool_labels\.parquet there, and in no round-K below"):
        folder_of(arm, tmp_path)
