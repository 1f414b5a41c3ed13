"""Stages on several processes: real torchrun and deepspeed launchers, two ranks each, and what is refused before."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from bgpm.errors import ConfigError, LaunchError
from bgpm.launch import LauncherSettings, command_line, is_launched, launch, local_rank_world, must_launch, rank_world
from bgpm.registry import parse
from bgpm.stage import read_params

NEEDS_DEEPSPEED = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed")
LAUNCHERS = ["torchrun", pytest.param("deepspeed", marks=NEEDS_DEEPSPEED)]
PROBE = """
import json, os, pathlib, sys, time
from bgpm.launch import end_with_stage, is_launched, local_rank_world, process_group, rank_world

end_with_stage()

def note(name, value):
    part = pathlib.Path(f"{name}.{os.getpid()}")
    part.write_text(json.dumps(value))
    part.rename(name)

rank, world = rank_world()
def gather():
    import torch.distributed as dist
    with process_group() as group:
        found = [None] * world if rank == 0 else None
        dist.gather_object((rank, world, *local_rank_world(), is_launched(), sys.argv[1:]), found, group=group)
    if rank == 0:
        note("gathered", found)

if sys.argv[1] == "gather":
    gather()
note(f"pid-{rank}", os.getpid())
note("pid-l", os.getppid())  # the launcher
if sys.argv[1] == "fail" and rank == 1:
    while not pathlib.Path("pid-0").exists():
        time.sleep(0.05)
    sys.exit(3)
if sys.argv[1] in ("fail", "wait"):
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "probe_of_launch.py").write_text(PROBE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def two(kind: str) -> LauncherSettings:
    return LauncherSettings(kind=kind, processes=2)  # type: ignore[arg-type]


def gone(folder: Path, seconds: float = 120) -> bool:
    """Whether every process that noted its id has ended, waiting a little for it."""
    end = time.monotonic() + seconds
    pids = [json.loads(path.read_text()) for path in folder.glob("pid-?")]
    assert len(pids) >= 1
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _runs(pid: int) -> bool:
    """Whether there is such a process and it has not ended, though nobody may have asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("kind", LAUNCHERS[1:])  # tests/test_embed_stage.py has torchrun
def test_two_ranks_run_the_module_with_its_arguments_and_meet(folder: Path, kind: str) -> None:
    launch(two(kind), "probe_of_launch", ["gather", "--local_rank=no", "a b"])
    arguments = ["gather", "--local_rank=no", "a b"]
    assert json.loads((folder / "gathered").read_text()) == [[r, 2, r, 2, True, arguments] for r in (0, 1)]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("kind", LAUNCHERS[1:])  # tests/test_embed_stage.py has torchrun
def test_a_rank_that_fails_ends_the_others_and_is_an_error(folder: Path, kind: str) -> None:
    with pytest.raises(LaunchError, match=r"probe_of_launch failed on at least one of 2 processes started by"):
        launch(two(kind), "probe_of_launch", ["fail"])
    assert gone(folder)


# What a rank's last collective can meet: its thread lets go of a tensor only while Python ends. A long switch interval
# keeps it waiting for Python's lock until then, and a last sleep gives it the lock.
LATE = """
import sys, time
from bgpm.stage import run

class Late:
    def __del__(self, sleep=time.sleep):
        sleep(0.5)

def main():
    global held, _late
    import torch, torch.distributed as dist
    dist.init_process_group("gloo")
    held, _late = dist.group.WORLD, Late()
    dist.barrier()
    print("done")  # later it would let the thread through
    sys.setswitchinterval(600)
    tensor = torch.ones(1)
    tensor.known = "to Python"
    work = dist.all_reduce(tensor, async_op=True)
    del work, tensor
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass

run(main)
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_a_rank_that_has_done_its_work_ends_well_whatever_its_threads_still_do(folder: Path) -> None:
    (folder / "late.py").write_text(LATE, encoding="utf-8")
    command = command_line(two("torchrun"), "late", [])
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout.count("done")) == (0, 2), ended.stderr


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("torchrun", signal.SIGTERM),
        ("torchrun", signal.SIGKILL),
        pytest.param("deepspeed", signal.SIGTERM, marks=[NEEDS_DEEPSPEED, pytest.mark.repeat]),
        pytest.param("deepspeed", signal.SIGKILL, marks=NEEDS_DEEPSPEED),
    ],
)
def test_the_end_of_the_stage_ends_its_launcher_and_ranks(folder: Path, kind: str, number: signal.Signals) -> None:
    settings = f"LauncherSettings(kind={kind!r}, processes=2)"
    code = f"from bgpm.launch import *\nlaunch({settings}, 'probe_of_launch', ['wait'])"
    stage = subprocess.Popen([sys.executable, "-c", code])
    while not all((folder / f"pid-{rank}").exists() for rank in (0, 1)):
        assert stage.poll() is None
        time.sleep(0.1)
    stage.send_signal(number)
    assert stage.wait(300) == (-number if number == signal.SIGKILL else 128 + number)
    assert gone(folder)


def test_a_process_alone_is_rank_0_of_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (rank_world(), local_rank_world(), is_launched()) == ((0, 1), (0, 1), False)
    assert must_launch(two("torchrun"))
    assert must_launch(LauncherSettings(kind="deepspeed"))
    assert not must_launch(LauncherSettings())
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rank_world() == (1, 2)
    assert is_launched()
    assert not must_launch(two("torchrun"))


@pytest.mark.parametrize(
    ("rank", "world", "message"),
    [
        ("2", "2", r"RANK=2 and WORLD_SIZE=2: expected a rank below WORLD_SIZE"),
        ("0", "0", "expected a rank below WORLD_SIZE"),
        ("-1", "2", r"RANK='-1': expected a whole number"),
        ("0", "two", r"WORLD_SIZE='two': expected a whole number"),
    ],
)
def test_a_rank_that_is_none_of_the_world_is_refused(
    monkeypatch: pytest.MonkeyPatch, rank: str, world: str, message: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ConfigError, match=message):
        rank_world()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": 0}, r"launcher\.processes: .*greater than or equal to 1, got 0"),
        ({"processes": 2.0}, r"launcher\.processes"),
        ({"kind": "mpi"}, r"launcher\.kind: .*'none', 'torchrun' or 'deepspeed', got 'mpi'"),
        ({"gpus": 2}, r"launcher\.gpus: unknown key; known here: processes, hostfile, arguments"),
    ],
)
def test_wrong_settings_are_refused_with_their_key(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(LauncherSettings, settings, "launcher")


def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="none starts no processes"):
        launch(LauncherSettings(), "stages.embed", [])
    hosts = tmp_path / "hosts"
    with pytest.raises(ConfigError, match=r"torchrun reads none; set launcher.kind to deepspeed"):
        launch(LauncherSettings(kind="torchrun", hostfile=str(hosts)), "stages.embed", [])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"deepspeed is not installed; run `DS_BUILD_OPS=0 pip install"):
        launch(LauncherSettings(kind="deepspeed"), "stages.embed", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"launcher\.hostfile: .*hosts cannot be read"),
        ("one slots=2\ntwo 2\n", r"hosts:2: expected `HOST slots=GPUS`, got 'two 2'"),
        ("one slots=2\none slots=2\n", r"hosts:2: one stands here twice"),
        ("one slots=8\n\n# two\ntwo slots=1\n", r"hosts:4: two has 1 slots, but launcher\.processes is 2 a machine"),
        ("# nobody\n", r"names no machine"),
    ],
)
def test_a_bad_hostfile_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    hosts = tmp_path / "hosts"
    if text is not None:
        hosts.write_text(text)
    with pytest.raises(ConfigError, match=message):
        launch(LauncherSettings(kind="deepspeed", processes=2, hostfile=str(hosts)), "stages.embed", [])


def test_the_command_line_names_hostfile_processes_and_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    hosts = tmp_path / "hosts"
    hosts.write_text("one slots=8  # this machine\ntwo slots=8\n")
    settings = LauncherSettings(
        kind="deepspeed", processes=8, hostfile=str(hosts), arguments=["--master_port", "29501"]
    )
    words = command_line(settings, "stages.embed", ["pool"])
    assert words[:3] == [sys.executable, "-m", "deepspeed.launcher.runner"]
    assert words[3:5] == [f"--hostfile={hosts}", "--num_gpus=8"]
    assert words[-5:] == ["--master_port", "29501", "--module", "stages.embed", "pool"]
    assert "--hostfile=" in command_line(LauncherSettings(kind="deepspeed"), "stages.embed", [])


def test_no_stage_depends_on_how_many_processes_work() -> None:
    import yaml

    assert read_params(ROOT / "params.yaml")["launcher"] == LauncherSettings().model_dump()
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        assert not [key for key in stage.get("params", []) if str(key).split(".")[0] == "launcher"], name
        if name not in ("check", "report"):  # a second each: they read the whole file
            assert "params.yaml" not in stage["deps"], name
