"""A lock that a killed build left is named before anything waits for it; one that is held is let be."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from tasks import Workspace

from bgpm.errors import LaunchError, StateError
from bgpm.training import builds
from bgpm.training.run import run

ZERO2 = str(Path(__file__).parents[2] / "configs/deepspeed/zero2.json")


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an operator in a folder of its own, three hours old."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(builds, "LOOK_AGAIN", 0.05)
    path = tmp_path / "deepspeed_shm_comm/lock"
    path.parent.mkdir()
    path.touch()
    then = time.time() - 3 * 3600
    os.utime(path, (then, then))
    return path


def test_a_lock_that_nobody_holds_is_an_error_with_its_age_and_its_mending(lock: Path) -> None:
    with pytest.raises(LaunchError, match=rf"{re.escape(str(lock))}: .* 3 hours old.*`rm {re.escape(str(lock))}`"):
        builds.refuse_stale_locks()
    assert lock.exists()  # another machine may hold it
    lock.unlink()
    builds.refuse_stale_locks()


def test_a_lock_that_a_process_holds_is_waited_for(lock: Path) -> None:
    with lock.open():
        builds.refuse_stale_locks()


def test_a_lock_that_goes_away_meanwhile_was_held(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds.time, "sleep", lambda _: lock.unlink())
    builds.refuse_stale_locks()
    assert not lock.exists()


def test_where_no_folder_is_named_all_of_the_cache_are_looked_at(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builds.refuse_stale_locks()
    there = tmp_path / "cache/torch_extensions/py311_cpu/cpu_adam/lock"
    there.parent.mkdir(parents=True)
    there.touch()
    with pytest.raises(LaunchError, match="cpu_adam/lock: the lock of an operator's build, 0 seconds old"):
        builds.refuse_stale_locks()


@pytest.mark.parametrize(("deepspeed", "rank"), [(ZERO2, "0"), (ZERO2, "1"), (None, "0")])
def test_the_first_rank_of_a_machine_refuses_it_before_it_reads_anything(
    lock: Path, qwen: Workspace, monkeypatch: pytest.MonkeyPatch, deepspeed: str | None, rank: str
) -> None:
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    task = qwen.task("unread", mode="lora", deepspeed=deepspeed).model_copy(update={"labels": "nowhere.parquet"})
    first = deepspeed is not None and rank == "0"
    with pytest.raises(LaunchError if first else StateError, match="the lock of" if first else "nowhere"):
        run("train", task)
