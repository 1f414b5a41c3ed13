"""The next round, run by the server: what it says, when it begins, and who else may annotate meanwhile."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bgpm.annotate import rounds as module
from bgpm.annotate.batches import PoolTexts, reserve, to_come, waiting, waiting_since
from bgpm.annotate.desk import Desk
from bgpm.annotate.overview import overview
from bgpm.annotate.rounds import COMMAND, Rounds, RoundState, Step, outcome, progress, runs_here
from bgpm.annotate.server import Server, access, read_guidelines
from bgpm.annotations.store import Annotation, LabelStore
from bgpm.data.tables import read_table, write_table
from bgpm.errors import StateError
from bgpm.oracles.human import Human
from bgpm.stage import read_params

PARTS = [
    [Step("check", "Check", False), Step("start", "Choose the seed set", False)],
    [
        Step("label@a-round0", "Ask", True),
        Step("train@a-round0", "Train", False),
        Step("score@a-round1", "Score", False),
    ],
]
DVC = """Stage 'check' didn't change, skipping
Stage 'start' didn't change, skipping
Running stage 'label@a-round0':
> sh stages/python -m stages.label a 0
Running stage 'train@a-round0':
"""
# A round that finds the labels it needs, and stops where the next batch waits.
NEXT = """
import json, pathlib, sys, time
print("Running stage 'label@entropy-round0':", flush=True)
here, there = pathlib.Path("data/entropy/round-0"), pathlib.Path("data/entropy/round-1")
while not pathlib.Path("go").exists(): time.sleep(0.01)
(here / "waiting.json").unlink()
there.mkdir()
for name in ("batch.parquet", "scores.parquet"): (there / name).write_bytes(pathlib.Path("next-" + name).read_bytes())
(there / "waiting.json").write_text(json.dumps({"pairs": ["pair-6", "pair-9"]}))
print("error: 2 of 2 pairs of data/entropy/round-1/batch.parquet wait for a label", file=sys.stderr)
sys.exit(1)
"""
BREAKS = "print('error: data/pool: is gone; run `dvc repro`'); print('ERROR: failed'); raise SystemExit(255)"
PIPELINE = {
    "stages": {
        "label": {"matrix": {"arm": [], "round": []}, "cmd": "python -m stages.label", "desc": "Take the labels"},
        "score": {"matrix": {"arm": [], "round": []}, "cmd": "python -m stages.score", "desc": "Value the pool"},
    }
}


class Room:
    """A campaign of 12 pairs of which four wait, its desk, and a run that a test may let go on."""

    def __init__(self, place: Any, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
        self.root = place.root
        monkeypatch.chdir(place.root)
        monkeypatch.setattr(module, "SETTLE", 0.0)
        monkeypatch.setattr(module, "LOOK_AGAIN", 0.02)
        monkeypatch.setattr(module, "POLITE", 1.0)  # a test that runs in the background ignores Ctrl-C, and so its runs
        place.params(rounds=[{"k": 0, "next": 1}, {"k": 1, "next": 2}])
        Path("dvc.yaml").write_text(json.dumps(PIPELINE), encoding="utf-8")
        place.wait("entropy/round-1", ["pair-6", "pair-9"])
        for name in ("batch.parquet", "scores.parquet"):
            Path(f"data/entropy/round-1/{name}").rename(f"next-{name}")
        Path("data/entropy/round-1/waiting.json").unlink()
        Path("data/entropy/round-1").rmdir()
        place.wait("entropy/round-0", place.ids[:4])
        scores = read_table(Path("data/entropy/round-0/scores.parquet"))
        more = {name: np.resize(column, 12) for name, column in scores.items()}
        # The pairs that were not chosen, in the order 9, 6, 4, 5, 7, 8, 10, 11 of what the model would ask next.
        value = [9, 9, 9, 9, 5, 4, 6, 3, 2, 7, 1, 0]
        write_table(Path("data/entropy/round-0/scores.parquet"), more | {"pair": np.arange(12), "value": value})
        store = LabelStore(place.store)
        self.desk = Desk(PoolTexts(Path("data/pool")), lambda: waiting(read_params()), store, self.settings, ahead=3)
        self.people = 1
        command = (sys.executable, "-c", script)
        self.rounds = Rounds(self.desk.complete, lambda: waiting_since(read_params()), self.desk.quiet, command)

    def settings(self) -> Human:
        return Human(annotators_per_pair=getattr(self, "people", 1))

    def say(self, pair: str, who: str = "ada", seconds: float = 20.0) -> None:
        self.desk.annotate(id=f"{who}-{pair}", annotator=who, pair_id=pair, choice="left", shown="ab", seconds=seconds)

    def reaches(self, phase: str) -> dict[str, Any]:
        end = time.monotonic() + 60
        while (state := self.rounds.state())["phase"] != phase:
            assert time.monotonic() < end, state
            time.sleep(0.01)
        return state

    @contextmanager
    def running(self) -> Iterator[None]:
        self.rounds.start()
        try:
            yield
        finally:
            self.rounds.close()


@pytest.fixture
def room(campaign: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Room]:
    return lambda script=NEXT: Room(campaign(), monkeypatch, script)


def test_progress_counts_the_stages_from_one_batch_to_the_next() -> None:
    assert progress(PARTS, DVC) == RoundState("running", "Train", 1, 3)
    assert progress(PARTS, DVC + "Running stage 'score@a-round1':\n") == RoundState("running", "Score", 2, 3)
    assert progress(PARTS, DVC[:80]) == RoundState("running", "Look for what changed")


@pytest.mark.parametrize(
    ("code", "log", "waits", "expected"),
    [
        (0, "", False, RoundState("finished")),
        (255, "error: 3 of 4 pairs wait", True, RoundState("idle")),
        (255, "ERROR: Unable to acquire lock. Most likely another DVC process", False, RoundState("busy")),
        (255, "ERROR: '/x' is busy, it is being blocked by:", False, RoundState("busy")),
        (1, "error: a\nerror: b\nERROR: c", False, RoundState("failed", error="b")),
        (1, "  x = 1\nValueError: no column\nERROR: c", False, RoundState("failed", error="ValueError: no column")),
        (1, "ERROR: './dvc.yaml' is invalid", False, RoundState("failed", error="'./dvc.yaml' is invalid")),
        (-9, "", False, RoundState("failed", error="dvc repro ended with exit code -9")),
    ],
)
def test_what_ended_a_run_is_told_apart(code: int, log: str, waits: bool, expected: RoundState) -> None:
    assert outcome(code, log, PARTS, waits=waits) == expected


def test_a_stage_that_fails_while_another_waits_for_people_is_a_failure() -> None:
    log = """Running stage 'label@a-round0':
error: 2 of 2 pairs wait for a label
WARNING: failed to run: sh stages/python -m stages.label a 0, exited with 1
Running stage 'train@a-round0':
error: data/x: is gone
WARNING: failed to run: sh stages/python -m stages.train a 0, exited with 1
Stage 'start' didn't change, skipping
"""
    end = "ERROR: failed to reproduce{}: failed to run: sh stages/python -m stages.label a 0, exited with 1\n"
    both = log + end.format(" stages: 'label@a-round0', 'train@a-round0'")
    assert outcome(255, both, PARTS, waits=True) == RoundState("failed", error="data/x: is gone")
    assert outcome(255, log + end.format(" 'label@a-round0'"), PARTS, waits=True) == RoundState("idle")


@pytest.mark.slow
def test_the_last_round_is_evaluated_though_the_next_batch_waits_for_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody is told to stop before all rounds are through: DVC comes to evaluations last."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([*COMMAND[:3], "init", "-q"], check=True)
    here, there = "label-${item.round.k}", "label-${item.round.next}"
    label = {"cmd": f"test ${{item.round.k}} = 0 && touch {there}", "deps": [here], "outs": [there]}
    evaluation = "evaluation-${item.round.next}"
    evaluate = {"cmd": f"touch {evaluation}", "deps": [there], "outs": [evaluation]}
    stages = {
        name: stage | {"matrix": {"round": "${rounds}"}} for name, stage in (("label", label), ("evaluate", evaluate))
    }
    Path("dvc.yaml").write_text(json.dumps({"stages": stages}), encoding="utf-8")
    Path("params.yaml").write_text(
        json.dumps({"rounds": [{"k": k, "next": k + 1} for k in range(2)]}), encoding="utf-8"
    )
    Path("label-0").touch()
    assert subprocess.run(COMMAND, capture_output=True, check=False).returncode != 0
    assert sorted(path.name for path in Path().glob("*-[12]")) == ["evaluation-1", "label-1"]


def test_a_second_server_that_would_run_the_rounds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with runs_here(), pytest.raises(StateError, match=r"rounds.lock: process \d+ runs the rounds of this folder"):
        runs_here().__enter__()
    with runs_here():
        pass


def test_people_go_on_with_the_reserve_and_lose_nothing_when_the_next_batch_appears(room: Any) -> None:
    here = room()
    with here.running():
        for pair in ("pair-0", "pair-1", "pair-2"):
            here.say(pair)
        assert here.rounds.state()["phase"] == "idle"
        here.say("pair-3")
        state = here.reaches("running")
        while not here.rounds.state()["total"]:
            time.sleep(0.01)
        state = here.rounds.state()
        assert (state["does"], state["done"], state["total"]) == ("Take the labels", 0, 2)
        asked = here.desk.state("ada")
        assert asked["reserve"]
        assert [q["pair_id"] for q in asked["queue"]] == ["pair-9", "pair-6", "pair-4"]  # by what the model values
        here.say("pair-9")
        Path("go").touch()
        here.reaches("idle")
        asked = here.desk.state("ada")
        assert (asked["batch"], asked["reserve"], asked["finished"], asked["total"]) == (
            "entropy, round 1",
            False,
            1,
            2,
        )
        assert [q["pair_id"] for q in asked["queue"]] == ["pair-6"]  # pair-9 has its annotation
        here.say("pair-4")  # was on somebody's screen when the batch appeared
        assert "pair-4" in here.desk.said()
        page = overview(here.desk, read_params(), here.rounds)
        assert "annotated pairs are not acquired (the reserve)" in page


def test_the_reserve_is_that_of_the_first_seed_which_need_not_be_0(room: Any) -> None:
    room()
    path = Path("data/entropy/round-0/scores.parquet")
    scores = read_table(path)
    two = {name: np.concatenate([column, column]) for name, column in scores.items()}
    other = {"seed": np.repeat([3, 7], 12), "value": np.concatenate([scores["value"], -scores["value"]])}
    write_table(path, two | other)
    found = reserve(waiting(read_params())[0], set(), 3)
    assert found is not None
    assert found.pair_ids == ("pair-9", "pair-6", "pair-4")


@pytest.mark.parametrize(("rounds", "most"), [(1, 0), (2, 2), (9, 16)])
def test_the_reserve_is_no_larger_than_what_rounds_still_acquire(room: Any, rounds: int, most: int) -> None:
    here = room()
    params = read_params() | {"rounds": [{"k": k, "next": k + 1} for k in range(rounds)], "batch_size": 2}
    assert to_come(waiting(params)[0], params) == most
    desk = Desk(here.desk.texts, here.desk._look, here.desk.store, here.desk._settings, 64, planned=lambda _: most)
    desk.batches()
    assert len(desk._reserve.pair_ids if desk._reserve else ()) == min(most, 8)


def test_a_failure_stays_with_its_sentence_until_somebody_retries(room: Any) -> None:
    here = room(BREAKS)
    with here.running():
        for pair in ("pair-0", "pair-1", "pair-2", "pair-3"):
            here.say(pair)
        assert here.reaches("failed")["error"] == "data/pool: is gone; run `dvc repro`"
        first = module.LOG.stat().st_mtime_ns
        time.sleep(0.2)
        assert module.LOG.stat().st_mtime_ns == first  # nobody asked for another try
        page = overview(here.desk, read_params(), here.rounds)
        assert "The round failed:</b> data/pool: is gone" in page
        here.say("pair-9")  # the reserve goes on
        here.rounds.retry()
        end = time.monotonic() + 60
        while module.LOG.stat().st_mtime_ns == first:
            assert time.monotonic() < end
            time.sleep(0.01)
        here.reaches("failed")


@pytest.mark.slow
def test_a_run_that_was_ended_goes_on_with_the_next_server(room: Any) -> None:
    here = room()
    for pair in ("pair-0", "pair-1", "pair-2", "pair-3"):
        here.say(pair)
    with here.running():
        here.reaches("running")
    assert Path("data/entropy/round-0/waiting.json").exists()
    again = Rounds(here.rounds.due, here.rounds.notes, here.rounds.quiet, here.rounds.command)
    Path("go").touch()
    here.rounds = again
    with here.running():
        end = time.monotonic() + 60
        while not Path("data/entropy/round-1/waiting.json").exists():
            assert time.monotonic() < end
            time.sleep(0.01)


def test_the_page_may_ask_for_another_try_and_only_this_site_may(room: Any) -> None:
    here = room(BREAKS)
    with Server(here.desk, str, access("127.0.0.1", None), 0, here.rounds) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def post(**headers: str) -> tuple[int, dict[str, Any]]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
            body = json.dumps({"annotator": "ada"})
            connection.request("POST", "/api/retry", body, {"Content-Type": "application/json"} | headers)
            reply = connection.getresponse()
            text = reply.read()
            connection.close()
            return reply.status, json.loads(text) if reply.status == 200 else {}

        here.rounds._set(RoundState("failed", error="broken"))
        assert post(Origin="http://attacker.invalid")[0] == 403
        assert here.rounds.state()["phase"] == "failed"
        status, reply = post()
        assert (status, reply["state"]["run"]["phase"]) == (200, "idle")
        server.shutdown()


def test_guidelines_that_nobody_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "guidelines.md"
    with pytest.raises(StateError, match=r"guidelines\.md: cannot be read .* with --guidelines"):
        read_guidelines(path)
    path.write_bytes(b"\xff")
    with pytest.raises(StateError, match="cannot be read"):
        read_guidelines(path)
    path.write_text("x" * 70_000, encoding="utf-8")
    with pytest.raises(StateError, match="70000 bytes; guidelines"):
        read_guidelines(path)
    path.write_text("Read both.", encoding="utf-8")
    assert read_guidelines(path) == "Read both."


def test_a_batch_that_is_edited_while_people_annotate_it_is_followed(room: Any) -> None:
    here = room()
    here.say("pair-0")
    folder = Path("data/entropy/round-0")
    batch = read_table(folder / "batch.parquet")
    write_table(folder / "batch.parquet", {name: column[2:] for name, column in batch.items()})
    # The note speaks of pairs that the batch no longer has: it is left over, and the stage will say what waits.
    assert here.desk.batches() == []
    (folder / "batch.parquet").write_bytes(b"half a file")
    with pytest.raises(StateError, match=r"batch\.parquet: cannot be read"):  # 503: the browser keeps the annotation
        here.say("pair-1")
    write_table(folder / "batch.parquet", batch)
    here.say("pair-1")
    assert set(here.desk.said()) == {"pair-0", "pair-1"}


def test_who_annotates_faster_than_anybody_reads_is_named(room: Any) -> None:
    here = room()
    for number in range(12):
        for who, seconds in (("ada", 20.0), ("eve", 1.9)):
            here.desk.store.append(Annotation(f"pair-{number}", 1.0, who, "", seconds=seconds))
    page = overview(here.desk, read_params())
    assert "<b>eve</b>: 12 of 12 annotations took 2 s or less, or less than skimming" in page
    assert "<li><b>ada</b>" not in page
