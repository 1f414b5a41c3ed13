"""The label store: no acknowledged answer is lost, none is counted twice, and whoever breaks a line is told where."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bgpm.annotations.store import Annotation, LabelStore
from bgpm.errors import DataError, StateError

TORN = b'{"pair_id": "q", "label": 1, "anno'
AT = "2026-11-24T12:00:00.000+00:00"


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore(tmp_path / "annotations" / "ada.jsonl")


def annotation(pair_id: str, label: float | None = 1.0, annotator: str = "ada", **more: object) -> Annotation:
    return Annotation(pair_id, label, annotator, AT, **more)  # type: ignore[arg-type]


def child(code: str, *arguments: str, **more: object) -> subprocess.Popen[str]:
    """Another process that runs this code with the store's names at hand."""
    head = "import sys\nfrom pathlib import Path\nfrom bgpm.annotations.store import Annotation, LabelStore\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,  # type: ignore[call-overload]
    )


def test_every_field_comes_back_as_it_was_given(store: LabelStore) -> None:
    said = [
        annotation(
            "p", 0.25, "zoë", cost=0.5, seconds=2.5, source="judge", shown="ba", note='one\n"two"\u2028three', id="x"
        ),
        annotation("q", None, "bo"),
    ]
    store.extend(said)
    assert LabelStore(store.path).annotations() == said
    assert store.path.read_bytes().count(b"\n") == 2


def test_what_nobody_has_written_is_empty_and_reading_makes_no_file(store: LabelStore) -> None:
    assert store.annotations() == []
    assert store.by_pair() == {}
    assert not store.path.parent.exists()


def test_an_annotators_last_word_counts_and_the_earlier_one_stays_in_the_history(store: LabelStore) -> None:
    first, other, last = annotation("p", 1), annotation("p", 0, "bo"), annotation("p", 0)
    for one in (first, other, last):
        store.append(one)
    assert store.by_pair() == {"p": {"ada": last, "bo": other}}
    assert store.history() == [first, other, last]


def test_the_same_id_twice_is_written_once(store: LabelStore) -> None:
    once = annotation("p", 1, id="k")
    store.append(once)
    store.append(replace(once, at="2026-11-24T13:00:00+00:00"))  # a page that sends it again
    LabelStore(store.path).append(once)
    store.extend([once, once])
    assert store.path.read_bytes().count(b"\n") == 1
    with pytest.raises(DataError, match="another answer has the id 'k'"):
        store.append(annotation("p", 0, id="k"))
    with pytest.raises(DataError, match="another answer has the id 'n'"):
        store.extend([annotation("r", id="n"), annotation("s", id="n")])
    assert store.annotations() == [once]


def test_taking_an_answer_back_adds_a_line_and_brings_the_earlier_word_back(store: LabelStore) -> None:
    first, last = annotation("p", 1, id="a"), annotation("p", 0, id="b")
    store.extend([first, last])
    before = store.path.read_bytes()
    store.undo("b", "ada")
    assert store.path.read_bytes().startswith(before)
    assert store.by_pair() == {"p": {"ada": first}}
    store.undo("b", "ada")
    store.append(last)  # the same answer sent once more, late: it stays taken back
    assert store.path.read_bytes().count(b"\n") == 3
    store.undo("a", "ada")
    assert store.by_pair() == {}


def test_only_an_answer_of_ones_own_can_be_taken_back(store: LabelStore) -> None:
    store.append(annotation("p", id="a"))
    with pytest.raises(DataError, match="no answer 'a' of annotator 'bo' to take back: it is by 'ada'"):
        store.undo("a", "bo")
    with pytest.raises(DataError, match="no answer 'z' of annotator 'ada' to take back: there is none"):
        store.undo("z", "ada")
    assert len(store.annotations()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 1.5}, "label 1.5: expected a probability in [0, 1]"),
        ({"label": float("nan")}, "label nan"),
        ({"label": True}, "label True"),
        ({"pair_id": ""}, "pair_id '': expected text"),
        ({"annotator": ""}, "annotator '': expected text"),
        ({"note": "\ud800"}, "note '\\ud800': expected text, got half a character"),
        ({"at": "2026-11-24T12:00:00"}, "at '2026-11-24T12:00:00': expected a UTC time"),
        ({"cost": float("inf")}, "cost inf"),
        ({"seconds": -1}, "seconds -1"),
        ({"source": "oracle"}, "source 'oracle': expected one of recorded, judge, human"),
        ({"shown": "b"}, "shown 'b': expected one of ab, ba"),
        ({"strength": "strong"}, "strength 'strong': expected one of slight, clear, much"),
        ({"strength": "much", "label": 0.5}, "strength 'much' with label 0.5: only label 0 or 1"),
        ({"flags": ["rude"]}, "flags ['rude']: expected a list of both_bad"),
        ({"flags": "unsafe"}, "flags 'unsafe': expected a list"),
        ({"flags": ["both_bad"]}, "flag both_bad with label 1.0: expected a tie, 0.5"),
        ({"flags": ["cannot_judge"]}, "flag cannot_judge with label 1.0: expected a skipped pair, null"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        replace(annotation("p"), **change)


def test_lines_written_by_hand_are_answers_and_can_be_taken_back(store: LabelStore) -> None:
    store.path.parent.mkdir()
    store.path.write_text('{"pair_id": "p", "label": 1, "annotator": "ada", "why": "x"}\n{"pair_id": "p", "label": 0}')
    by_hand = store.by_pair()["p"]
    assert {name: a.label for name, a in by_hand.items()} == {"ada": 1.0, "anonymous": 0.0}
    assert {a.source for a in by_hand.values()} == {"human"}
    store.append(annotation("q"))  # the line without an end gets one
    store.undo(by_hand["ada"].id, "ada")
    assert {(a.pair_id, a.annotator) for a in store.annotations()} == {("p", "anonymous"), ("q", "ada")}


def test_a_line_cut_off_in_the_middle_does_not_count_and_is_moved_aside(
    store: LabelStore, caplog: pytest.LogCaptureFixture
) -> None:
    kept = annotation("p")
    store.append(kept)
    for n, cut in enumerate((TORN, b'{"note": "\xe2\x82', b"\0\0\0"), 1):
        whole = store.path.read_bytes()
        with store.path.open("ab") as file:
            file.write(cut)
        assert store.annotations()[0] == kept
        assert store.path.read_bytes() == whole + cut  # a reader changes nothing
        store.append(annotation(f"new {n}"))
        assert store.path.with_name(f"ada.jsonl.torn-{n}").read_bytes() == cut
        assert len(store.annotations()) == n + 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert any("the last line is cut off and does not count" in text for text in warnings)
    assert any(text.endswith("moved to " + str(store.path) + ".torn-1") for text in warnings)


def test_any_other_broken_line_stops_readers_and_writers_and_is_named(store: LabelStore) -> None:
    store.append(annotation("p"))
    with store.path.open("ab") as file:
        file.write(TORN + b"\n")
    broken = store.path.read_bytes()
    for attempt in (store.annotations, lambda: store.append(annotation("r")), lambda: store.undo("x", "ada")):
        with pytest.raises(DataError, match=re.escape(f"{store.path}:2: not JSON (") + ".*mend the line"):
            attempt()
    assert store.path.read_bytes() == broken


def test_every_acknowledged_answer_is_there_after_kill_9(store: LabelStore) -> None:
    code = (
        "with LabelStore(Path(sys.argv[1])).writer() as store:\n"
        "    for n in range(10**6):\n"
        "        store.append(Annotation(f'p{n}', 1.0, 'ada', '', note='x' * 5000, id=str(n)))\n"
        "        print(n, flush=True)\n"
    )
    total = 0
    for start in range(3):
        process = child(code, str(store.path))
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(20 + start)]
        process.kill()
        acknowledged += process.stdout.read().split()
        process.communicate()
        assert acknowledged[:2] == ["0", "1"]
        there = {a.id for a in store.annotations()}
        assert there >= set(acknowledged)
        with store.writer():  # the lock died with its holder
            store.append(annotation(f"after {start}"))
        total = max(total, len(acknowledged))
    assert len(store.annotations()) >= total + 3


def limited(path: Path, limit: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_acknowledges_nothing_and_leaves_whole_lines_only(store: LabelStore) -> None:
    code = (
        "from bgpm.errors import StateError\n"
        "store = LabelStore(Path(sys.argv[1]))\n"
        "with store.writer():\n"
        "    for n in range(100):\n"
        "        try:\n"
        "            store.append(Annotation(f'p{n}', 1.0, 'ada', '', note='x' * 300, id=str(n)))\n"
        "        except StateError as error:\n"
        "            print(error)\n"
        "            break\n"
        "        print(n)\n"
        "    store.append(Annotation('short', 1.0, 'a', '', id='s'))\n"  # there is room for this one
    )
    with child(code, str(store.path), preexec_fn=limited(store.path, 2200)) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    *acknowledged, error = out.splitlines()
    assert len(acknowledged) >= 2
    assert f"{store.path}: File too large: 1 lines were not written and do not count; make room" in error
    assert [a.id for a in store.annotations()] == [*acknowledged, "s"]
    assert store.path.read_bytes().endswith(b"\n")
    assert not list(store.path.parent.glob("*.torn-*"))


def test_an_answer_is_on_the_disk_before_it_is_acknowledged(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes | None] = []
    fsync = os.fsync

    def noted(file: int) -> None:
        synced.append(store.path.read_bytes() if os.path.samestat(os.fstat(file), store.path.stat()) else None)
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    store.append(annotation("p"))
    assert synced == [store.path.read_bytes(), None]  # the line, then the name of the new file
    store.append(annotation("q"))
    assert synced[2:] == [store.path.read_bytes()]


def test_many_answers_are_written_all_or_none(store: LabelStore) -> None:
    store.append(annotation("p"))
    code = "LabelStore(Path(sys.argv[1])).extend(Annotation(f'p{n}', 1.0, 'ada', '') for n in range(100))\n"
    with child(code, str(store.path), preexec_fn=limited(store.path, 4000)) as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert "File too large: 100 lines were not written" in err
    assert [a.pair_id for a in store.annotations()] == ["p"]


def test_a_second_writer_is_refused_by_the_number_of_the_first(store: LabelStore) -> None:
    code = (
        "with LabelStore(Path(sys.argv[1])).writer() as store:\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    store.append(Annotation('theirs', 1.0, 'bo', ''))\n"
    )
    with child(code, str(store.path), stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        for attempt in (lambda: store.append(annotation("p")), lambda: store.writer().__enter__()):
            with pytest.raises(StateError, match=rf"ada\.jsonl: process {process.pid} is writing to it; end that"):
                attempt()
        assert store.annotations() == []  # readers need no lock
        process.communicate("go\n")
    store.append(annotation("p"))
    assert [a.pair_id for a in store.annotations()] == ["theirs", "p"]
    with store.writer(), pytest.raises(StateError, match=f"process {os.getpid()} is writing"):
        LabelStore(store.path).append(annotation("q"))


def test_threads_share_a_store(store: LabelStore) -> None:
    def write(name: str) -> None:
        for n in range(20):
            store.append(annotation(f"p{n}", annotator=name))

    with store.writer():
        threads = [threading.Thread(target=write, args=(f"t{k}",)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {(a.pair_id, a.annotator) for a in store.annotations()} == {
        (f"p{n}", f"t{k}") for n in range(20) for k in range(4)
    }


def test_a_file_replaced_or_removed_under_an_open_writer_loses_nothing(store: LabelStore) -> None:
    first = annotation("p", id="a")
    with store.writer():
        store.append(first)
        other = store.path.with_name("other")  # as a git checkout does
        other.write_text(json.dumps({"pair_id": "old", "label": 0}) + "\n")
        other.replace(store.path)
        store.append(first)
        assert [a.pair_id for a in store.annotations()] == ["old", "p"]
        store.path.unlink()
        store.append(first)
        assert store.annotations() == [first]


def test_a_line_is_one_json_object_that_other_tools_can_read(store: LabelStore) -> None:
    store.append(annotation("p", 0.5, id="a"))
    store.undo("a", "ada")
    lines = [json.loads(line) for line in store.path.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {
        "pair_id": "p", "label": 0.5, "annotator": "ada", "at": AT, "cost": 0.0, "seconds": None, "source": "human",
        "shown": "ab", "note": "", "id": "a",
    }  # fmt: skip
    assert lines[1]["retract"] == "a"
    assert lines[1]["annotator"] == "ada"


@pytest.mark.parametrize(
    ("written", "counts"),
    [
        ("e\u0301ve", "\u00e9ve"), ("eve\u200b", "eve"), ("\ufeffeve", "eve"), ("e\u00advo", "evo"),
        ("eve\ufe0f", "eve"), ("Ada\u00a0B", "Ada B"), ("Ada  B", "Ada B"),
        ("e\u200d\u0301", "\u00e9"), ("\u202eeve\u202c", "eve"), ("eve", "eve"),
        (7, "7"), (None, "anonymous"), ("\u200b", "anonymous"),
    ],
)  # fmt: skip
def test_a_name_counts_in_one_spelling(store: LabelStore, written: object, counts: str) -> None:
    store.path.parent.mkdir()
    store.path.write_text(json.dumps({"pair_id": "p", "label": 1, "annotator": written}) + "\n", encoding="utf-8")
    assert [annotation.annotator for annotation in store.annotations()] == [counts]


def test_answers_under_old_spellings_are_one_persons_and_that_is_said_once(
    store: LabelStore, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [
        {"pair_id": "p", "label": label, "annotator": name, "id": name, "at": AT}
        for name, label in (("ze\u0301", 1), ("z\u00e9", 0), ("z\u00e9\u200b", 1))
    ]
    store.path.parent.mkdir()
    store.path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for _ in range(3):
        assert {pair: [*said] for pair, said in store.by_pair().items()} == {"p": ["z\u00e9"]}
    assert caplog.text.count(r"the annotator written 'ze\u0301' counts as") == 1
    store.undo("z\u00e9\u200b", "ze\u0301")
    assert [annotation.label for annotation in store.annotations()] == [0]


@pytest.mark.parametrize("name", ["seconds", "cost"])
def test_a_number_beyond_its_bound_is_refused_and_an_old_one_counts_as_not_known(
    store: LabelStore, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match=f"{name} 1.7e\\+308: expected a number from 0 to"):
        annotation("p", **{name: 1.7e308})
    store.path.parent.mkdir()
    store.path.write_text(json.dumps({"pair_id": "p", "label": 1, name: 1.7e308}) + "\n", encoding="utf-8")
    assert [(a.label, a.seconds, a.cost) for a in store.annotations() + store.annotations()] == [(1.0, None, 0.0)] * 2
    assert caplog.text.count(f"ada.jsonl:1: {name} 1.7e+308 is beyond") == 1


def test_strength_and_flags_come_back_and_an_annotation_without_them_is_written_as_before(store: LabelStore) -> None:
    given = [
        annotation("p", strength="slight", flags=("wrong_language", "unsafe")),
        annotation("q", label=0.5, flags=("both_bad",)),
        annotation("r"),
    ]
    store.extend(given)
    assert LabelStore(store.path).annotations() == given
    lines = [json.loads(line) for line in store.path.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["flags"] == ["unsafe", "wrong_language"]
    assert not {"strength", "flags"} & lines[2].keys()
    with pytest.raises(DataError, match="another answer has the id"):
        store.append(annotation("r", strength="much", id=given[2].id))
