"""Run a stage on several processes: the stage starts itself again under torchrun or the deepspeed launcher.

A stage asks `must_launch`; where it says so, the stage calls `launch` with its own module and waits, and the processes
that this starts (ranks) do the work. Nothing here is a parameter of a DVC stage: how many processes work, and where,
does not change what comes out, so a change re-runs nothing.
"""

from __future__ import annotations

import importlib.util
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from bgpm.errors import ConfigError, LaunchError
from bgpm.registry import Settings

GRACE = 60  # seconds that ranks have to end after they were told to
STAGE = "BGPM_STAGE"  # environment variable: the process id of the stage that ranks of this machine belong to


class LauncherSettings(Settings):
    """Section ``launcher`` of params.yaml.

    Attributes:
        kind: ``none``: this process works alone; ``torchrun``: several processes on this machine; ``deepspeed``: the
            launcher of DeepSpeed, which also starts them on the machines of a hostfile.
        processes: How many on each machine: one a GPU.
        hostfile: Machines for ``deepspeed``, one a line as ``HOST slots=GPUS``, this one first; null for this one only.
        arguments: More arguments for the launcher's command line, such as ``[--master_port, "29501"]``; the last one
            given wins.
        score_from: Pairs of the pool from which `score` is divided too. One thread scores 10,000 (a GPM of 512
            features) to 500,000 (Bradley-Terry of 71) pairs of cached features a second, and processes take seconds to
            start.
    """

    kind: Literal["none", "torchrun", "deepspeed"] = "none"
    processes: int = Field(default=1, ge=1)
    hostfile: str | None = None
    arguments: list[str] = Field(default=[])
    score_from: int = Field(default=200_000, ge=1)


def must_launch(settings: LauncherSettings) -> bool:
    """Whether this process should hand its work to processes that `launch` starts, being none of them itself."""
    return settings.kind != "none" and not is_launched()


def is_launched() -> bool:
    """Whether a launcher started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def refuse_launched() -> None:
    """For a stage that starts its processes itself.

    Raises:
        LaunchError: If a launcher started this process.
    """
    if is_launched():
        raise LaunchError("this stage starts its processes itself: run it alone, with launcher.kind in params.yaml")


def own_cores() -> int:
    """This process's share of the cores that this machine's processes may use, at least 1."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, mine // local_rank_world()[1])


def rank_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) outside a launcher.

    Raises:
        ConfigError: If the environment names a rank that is not one of 0 to WORLD_SIZE - 1.
    """
    if not is_launched():
        return 0, 1
    rank, world = _number("RANK"), _number("WORLD_SIZE")
    if not rank < world:
        raise ConfigError(f"environment: RANK={rank} and WORLD_SIZE={world}: expected a rank below WORLD_SIZE")
    return rank, world


def local_rank_world() -> tuple[int, int]:
    """The same among the processes of this machine: the number is that of its GPU."""
    if not is_launched():
        return 0, 1
    size = "LOCAL_WORLD_SIZE" if "LOCAL_WORLD_SIZE" in os.environ else "LOCAL_SIZE"  # torchrun's name, DeepSpeed's name
    return _number("LOCAL_RANK"), _number(size)


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not value.isdecimal():
        raise ConfigError(f"environment: {name}={value!r}: expected a whole number, as launchers set it")
    return int(value)


@contextmanager
def process_group() -> Iterator[Any]:
    """A gloo group of all processes, to gather results over; None where this process is alone.

    After an error it is left as it is: to close it would wait for processes that wait for this one. Use it in a
    function: where a variable still holds it when Python ends, its threads may abort the process.
    """
    if rank_world()[1] == 1:
        yield None
        return
    import torch.distributed as dist

    if dist.is_initialized():  # by a trainer; its group may be of a kind that cannot carry numpy arrays
        group: Any = dist.new_group(backend="gloo")
        yield group
        dist.destroy_process_group(group)
        return
    dist.init_process_group("gloo")
    yield dist.group.WORLD
    dist.destroy_process_group()


def launch(settings: LauncherSettings, module: str, args: Sequence[str]) -> None:
    """Run ``python -m module args`` as so many processes and wait until all have ended.

    A process that fails ends the others. So does the end of this one, by Ctrl-C or SIGTERM; where ranks call
    `end_with_stage`, by whatever ends it.

    Raises:
        ConfigError: If settings do not go together, or the hostfile is not one.
        LaunchError: If a process failed; its own message stands above.
    """
    command = command_line(settings, module, args)
    environment = _environment(os.environ)
    if settings.hostfile is None:  # on another machine this id is nobody's, or somebody else's
        environment[STAGE] = str(os.getpid())
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    process = None
    try:
        process = subprocess.Popen(command, env=environment)
        code = process.wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until the launcher has ended too
        if process is not None:
            _end(process)
        signal.signal(signal.SIGTERM, before)
    if code != 0:
        raise LaunchError(
            f"launcher: {module} failed on at least one of {settings.processes} processes started by {settings.kind} "
            f"(exit code {code}); the first error above says why"
        )


def end_with_stage() -> None:
    """Have this rank end once its stage has, even by `kill -9`; its launcher then ends because a rank ended.

    On one Linux machine; elsewhere it does nothing.
    """
    if STAGE in os.environ and hasattr(os, "pidfd_open"):
        threading.Thread(target=_await_stage, args=(int(os.environ[STAGE]),), daemon=True).start()


def _await_stage(process_id: int) -> None:
    with suppress(ProcessLookupError):  # it has ended already
        select.select([os.pidfd_open(process_id)], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Tell a launcher to end its ranks, and end it if it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(parent: Mapping[str, str]) -> dict[str, str]:
    """What ranks inherit: modules are found from here, as ``python -m`` finds them for the stage itself."""
    found = os.pathsep.join(filter(None, [str(Path.cwd()), parent.get("PYTHONPATH")]))
    return {**parent, "PYTHONPATH": found}


def command_line(settings: LauncherSettings, module: str, args: Sequence[str]) -> list[str]:
    """The launcher's command line.

    Raises:
        ConfigError: As `launch` does.
    """
    python = [sys.executable, "-m"]
    if settings.kind == "none":
        raise ConfigError("params.yaml: launcher.kind: none starts no processes; set it to torchrun or deepspeed")
    if settings.kind == "torchrun":
        if settings.hostfile is not None:
            raise ConfigError(
                "params.yaml: launcher.hostfile: torchrun reads none; set launcher.kind to deepspeed, or this to null"
            )
        # A port of its own, so that two runs on one machine do not meet.
        options = [f"--nproc-per-node={settings.processes}", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        return [*python, "torch.distributed.run", *options, *settings.arguments, "--module", module, *args]
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "params.yaml: launcher.kind: deepspeed is not installed; run "
            "`DS_BUILD_OPS=0 pip install --no-build-isolation -e '.[deepspeed]'`, or set it to torchrun"
        )
    world_size(settings)
    # Named even when there is none, or it reads /job/hostfile where that exists.
    options = [
        f"--hostfile={settings.hostfile or ''}",
        f"--num_gpus={settings.processes}",
        "--no_local_rank",
        "--quiet",
    ]
    options += [f"--master_port={_free_port()}", *settings.arguments]
    return [*python, "deepspeed.launcher.runner", *options, "--module", module, *args]


def world_size(settings: LauncherSettings) -> int:
    """How many processes a launcher with these settings starts, on all machines together; 1 without one.

    Raises:
        ConfigError: If the hostfile is not one.
    """
    if settings.kind == "none":
        return 1
    if settings.hostfile is None:
        return settings.processes
    return settings.processes * _machines(Path(settings.hostfile), settings.processes)


def _machines(path: Path, processes: int) -> int:
    """How many a hostfile names."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"params.yaml: launcher.hostfile: {path} cannot be read: {error}") from None
    hosts: set[str] = set()
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = re.fullmatch(r"(\S+)\s+slots=(\d+)", text)
        if match is None:
            raise ConfigError(f"{path}:{number}: expected `HOST slots=GPUS`, got {text!r}")
        if match[1] in hosts:
            raise ConfigError(f"{path}:{number}: {match[1]} stands here twice; give it one line")
        if int(match[2]) < processes:
            raise ConfigError(
                f"{path}:{number}: {match[1]} has {match[2]} slots, but launcher.processes is {processes} a machine"
            )
        hosts.add(match[1])
    if not hosts:
        raise ConfigError(f"{path}: names no machine; expected lines such as `worker-1 slots=8`")
    return len(hosts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
