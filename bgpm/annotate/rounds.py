"""The next round, run by the server: one `dvc repro` at a time, in a process of its own, with a log of its own.

It begins when every pair of the batches that wait has its annotations, and ends where a stage waits for people again,
where the pipeline is through, or with an error, which stays until somebody asks for another try. Whatever ends it, a
later one goes on where it was: that is DVC's work.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bgpm.annotate.batches import version
from bgpm.annotations.lock import only_one
from bgpm.errors import BgpmError, StateError, visible
from bgpm.stage import DATA, read_params, setting
from bgpm.values import parse_yaml

log = logging.getLogger("bgpm")

LOG = DATA / "rounds.log"
LOCK = DATA / "rounds.lock"
# A stage that waits for labels ends no run: what does not depend on it, the last round's evaluation, follows it.
COMMAND = (sys.executable, "-m", "dvc", "repro", "--keep-going")
SETTLE = 3.0  # seconds after the last annotation of a batch in which it can still be taken back
LOOK_AGAIN = 0.5  # seconds between two looks
BUSY_AGAIN = 5.0  # seconds until another try where another DVC works in the folder
POLITE = 20.0  # seconds that an interrupted run has to end by itself
STAGE = re.compile(r"^(Running stage|Stage) '([^']+)'", re.M)
BUSY = re.compile(r"Unable to acquire lock|is busy, it is being blocked")
ERROR = re.compile(r"^error: (.+)$", re.M)
TRACEBACK = re.compile(r"^(\w+(?:Error|Exception): .+)$", re.M)  # of a fault of ours
NOT_MADE = re.compile(r"^ERROR: failed to reproduce(.+)$", re.M)  # names the stages that failed
QUOTED = re.compile(r"'([^']+)'")
DVC_ERROR = re.compile(r"^ERROR: (.+)$", re.M)

Phase = Literal["idle", "running", "busy", "failed", "finished"]


@dataclass(frozen=True)
class Step:
    """One stage of the pipeline with its matrix resolved: its name, what it does, and whether it asks for labels."""

    name: str
    does: str
    asks: bool


@dataclass(frozen=True)
class RoundState:
    """Where a run stands.

    Attributes:
        phase: idle (nothing to do), running, busy (another DVC works in the folder), failed, finished (no round left).
        does: What the stage that runs does.
        done, total: Stages behind it and in all, from one batch to the next.
        error: Why it failed, one sentence.
    """

    phase: Phase = "idle"
    does: str = ""
    done: int = 0
    total: int = 0
    error: str = ""


def plan(pipeline: Mapping[str, Any], params: Mapping[str, Any]) -> list[list[Step]]:
    """The stages of a pipeline in the order of a campaign, cut before each batch: nobody waits within a part.

    Args:
        pipeline: dvc.yaml.
        params: params.yaml, which says arms and rounds.
    """
    arms = list(dict.fromkeys([setting(params, "acquisition"), setting(params, "baseline")]))
    rounds = [entry["k"] for entry in setting(params, "rounds")]
    parts: list[list[Step]] = [[]]
    for step in _in_order(pipeline["stages"], arms, rounds):
        if step.asks and parts[-1] and not parts[-1][-1].asks:
            parts.append([])
        parts[-1].append(step)
    return parts


def _in_order(stages: Mapping[str, Any], arms: Sequence[str], rounds: Sequence[int]) -> Iterator[Step]:
    """Neighbours with a matrix over rounds take turns, round by round."""
    turns: list[tuple[str, Any]] = []
    for name, stage in [*stages.items(), ("", {})]:
        matrix = stage.get("matrix", {})
        if "round" in matrix:
            turns.append((name, stage))
            continue
        yield from (_step(f"{of}@{arm}-round{k}", one) for k in rounds for of, one in turns for arm in arms)
        turns = []
        if "arm" in matrix:
            yield from (_step(f"{name}@{arm}", stage) for arm in arms)
        elif matrix:
            yield from (_step(f"{name}@{value}", stage) for values in matrix.values() for value in values)
        elif name:
            yield _step(name, stage)


def _step(name: str, stage: Mapping[str, Any]) -> Step:
    return Step(name, str(stage.get("desc", name)), "stages.label" in stage["cmd"])


def progress(parts: Iterable[Sequence[Step]], log_text: str) -> RoundState:
    """Where a run stands, from what DVC has printed so far: it names each stage that it runs or passes over."""
    named = STAGE.findall(log_text)
    running = next((name for how, name in reversed(named) if how == "Running stage"), None)
    for part in parts:
        names = [step.name for step in part]
        if running in names:
            behind = {name for _, name in named} & set(names) - {running}
            return RoundState("running", part[names.index(running)].does, len(behind), len(part))
    return RoundState("running", "Look for what changed")


def outcome(code: int, log_text: str, parts: Iterable[Sequence[Step]], *, waits: bool) -> RoundState:
    """What a run that ended with this exit code means.

    Args:
        parts: As of `plan`.
        waits: Whether a stage has stopped for people since the run began. Another that failed is a failure all the
            same: evaluations follow the batch, and without them nobody learns when to stop.
    """
    if code == 0:
        return RoundState("finished")
    if waits:
        broken = _broken(parts, log_text)
        if broken is None:
            return RoundState("idle")
        log_text = broken
    if BUSY.search(log_text):
        return RoundState("busy")
    found = (pattern.findall(log_text) for pattern in (ERROR, TRACEBACK, DVC_ERROR))
    said = next(filter(None, found), [f"dvc repro ended with exit code {code}"])
    return RoundState("failed", error=visible(said[-1]))


def _broken(parts: Iterable[Sequence[Step]], log_text: str) -> str | None:
    """What the first stage printed that failed and asks nobody; None where there is none."""
    named = {name for line in NOT_MADE.findall(log_text) for name in QUOTED.findall(line)}
    broken = next((step.name for part in parts for step in part if step.name in named and not step.asks), None)
    if broken is None:
        return None
    printed = log_text.rpartition(f"Running stage '{broken}'")[2]
    return STAGE.split(printed)[0] + f"\nERROR: stage '{broken}' failed"


@contextmanager
def runs_here() -> Iterator[None]:
    """Nobody else runs the rounds of this folder until the block ends; StateError where somebody does."""
    with only_one(LOCK) as holder:
        if holder is not None:
            raise StateError(
                f"{LOCK}: process {holder} runs the rounds of this folder already (`bgpm annotate --run`): label on "
                "its page, or end it first"
            )
        yield


@dataclass
class Rounds:
    """Runs a round whenever one is due, from a thread of its own.

    Args:
        due: Whether batches wait and all of them are annotated; or nothing waits.
        notes: When each stage that waits for people stopped, as times of the file system.
        quiet: Seconds since the last annotation.
        command: What runs a round.
    """

    due: Callable[[], bool]
    notes: Callable[[], Iterable[float]]
    quiet: Callable[[], float]
    command: Sequence[str] = COMMAND
    _state: RoundState = RoundState()
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)
    _process: subprocess.Popen[bytes] | None = None
    _thread: threading.Thread | None = None
    _settings: tuple[int, ...] | None = None  # params.yaml when the last run began

    def state(self) -> dict[str, Any]:
        """Where it stands, for the page."""
        with self._guard:
            return asdict(self._state)

    def retry(self) -> None:
        """Try again after a failure; without one nothing happens."""
        with self._guard:
            if self._state.phase == "failed":
                self._state = RoundState()

    def start(self) -> None:
        """Begin to look for work."""
        self._thread = threading.Thread(target=self._work, name="rounds", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, and the run with it: it goes on with the next start."""
        self._stop.set()
        if self._thread:  # first, so that no run begins any more
            self._thread.join()
        if self._process and self._process.poll() is None:
            print("the round stops here; it goes on when `bgpm annotate --run` is started again", flush=True)
            for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                self._send(sign)
                try:
                    self._process.wait(POLITE)
                    break
                except subprocess.TimeoutExpired:
                    continue

    def _send(self, sign: signal.Signals) -> None:
        """To the run and the stage in it, which are a group of their own: Ctrl-C in a terminal reaches us alone."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, sign)

    def _work(self) -> None:
        while not self._stop.wait(LOOK_AGAIN):
            try:
                if self._wanted():
                    self._run()
            except (BgpmError, OSError) as error:  # params.yaml while somebody edits it, a full disk
                self._set(RoundState("failed", error=visible(str(error))))

    def _set(self, state: RoundState) -> None:
        with self._guard:
            self._state = state

    def _wanted(self) -> bool:
        phase = self.state()["phase"]
        if phase == "failed" or (phase == "finished" and self._settings == version(Path("params.yaml"))):
            return False
        if phase == "busy" and self._stop.wait(BUSY_AGAIN):
            return False
        return self.due() and self.quiet() >= SETTLE

    def _run(self) -> None:
        self._settings = version(Path("params.yaml"))
        parts = plan(parse_yaml(Path("dvc.yaml").read_text(encoding="utf-8")), read_params())
        self._set(RoundState("running", "Look for what changed"))
        before, began = set(self.notes()), time.monotonic()
        with LOG.open("wb") as out:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        while (code := self._process.poll()) is None:
            self._set(progress(parts, _text()))
            if self._stop.wait(LOOK_AGAIN):
                return
        if not self._stop.is_set():
            waits = any(note not in before for note in self.notes())
            if waits and self.due() and self.quiet() > time.monotonic() - began:
                waits = False  # the stage waits for what we hold for complete: another run would say so again
            state = outcome(code, _text(), parts, waits=waits)
            if state.phase == "failed":
                log.warning("the round failed: %s; see %s", state.error, LOG)
            self._set(state)


def _text() -> str:
    return LOG.read_text(encoding="utf-8", errors="replace")
