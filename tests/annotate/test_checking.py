"""Gold pairs and repeats: nobody can tell them, a restart gives the same, and no label knows of them."""

from __future__ import annotations

import itertools
import json
import re
import signal
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bgpm.annotate.batches import OpenBatch, PoolTexts, contradicted, named, waiting
from bgpm.annotate.desk import CHANGED, ClosedError, Desk, checks_path, store_path
from bgpm.annotate.overview import overview
from bgpm.annotations.checks import Check, read_checks
from bgpm.annotations.store import LabelStore, folder_by_pair, jsonl
from bgpm.data.tables import read_table, write_table
from bgpm.errors import ConfigError
from bgpm.loop.label import KEPT, label
from bgpm.oracles import OracleFiles
from bgpm.oracles.human import GoldSettings, Human, RepeatSettings
from bgpm.stage import ANNOTATIONS, HELDOUT_ANNOTATIONS, POOL, read_params

GOLD = "gold.jsonl"
BATCH = Path("data/entropy/round-0/batch.parquet")
CHECKED = Human(
    gold=GoldSettings(path=GOLD, share=0.2), repeats=RepeatSettings(share=0.2, after=5), annotators_per_pair=1
)


def write_gold(count: int = 40) -> None:
    rows = [{"prompt": f"gold {n}?", "chosen": f"answer A of gold {n}", "rejected": f"wrong {n}"} for n in range(count)]
    Path(GOLD).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def place(campaign: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A campaign of 40 pairs that wait, in whose folder we are, with a file of gold pairs."""
    place = campaign(pairs=40)
    monkeypatch.chdir(place.root)
    write_gold()
    return place


def desk(human: Human = CHECKED) -> Desk:
    params = read_params()
    return Desk(PoolTexts(POOL), partial(waiting, params), LabelStore(store_path(ANNOTATIONS)), lambda: human)


def better(question: dict[str, Any]) -> str:
    """What somebody chooses who prefers the text that sorts first, as "answer A" does."""
    return "left" if question["left"] < question["right"] else "right"


def give(table: Desk, who: str, question: dict[str, Any], choice: str, id: str, **more: Any) -> str:
    sent = {name: question[name] for name in ("pair_id", "shown", "texts")}
    return table.annotate(id=id, annotator=who, choice=choice, seconds=30.0, **sent, **more)  # pyright: ignore


def work(table: Desk, who: str = "ada", most: int = 10**6, choose: Callable[[Any], str] = better) -> list[Any]:
    """The states that one person sees who works on, the first question of each answered."""
    states = []
    while (state := table.state(who))["queue"] and len(states) < most:
        states.append(state)
        question = state["queue"][0]
        give(table, who, question, choose(question), uuid.uuid4().hex)
    return [*states, state]


def kinds() -> list[str]:
    return [check.kind for check in read_checks(ANNOTATIONS)]


def test_gold_pairs_and_repeats_come_among_the_pairs_and_their_answers_lie_apart(place: Any) -> None:
    states = work(desk())
    checks = read_checks(ANNOTATIONS)
    assert len(place.lines()) == 40
    assert {line["pair_id"] for line in place.lines()} == set(place.ids)
    assert len(states) - 1 == 40 + len(checks)
    # Shares are of all that is shown: 40 pairs are three fifths of 67.
    assert 5 <= kinds().count("gold") <= 24
    assert 4 <= kinds().count("repeat") <= 24
    assert {check.batch for check in checks} == {"entropy, round 0"}
    said = {line["pair_id"]: line for line in place.lines()}
    for check in checks:
        if check.kind == "gold":
            gold = desk().checking.gold[check.pair_id]
            assert check.label == gold.label  # whichever side it stood on
        else:
            assert check.label == said[check.pair_id]["label"]
            assert check.shown != said[check.pair_id]["shown"]
    assert {check.shown for check in checks if check.kind == "gold"} == {"ab", "ba"}
    assert len({(check.kind, check.pair_id) for check in checks}) == len(checks)  # nothing is asked a third time
    order = [state["queue"][0] for state in states[:-1]]
    prompts = [question["turns"][-1]["content"] for question in order]
    for n, prompt in enumerate(prompts):
        if prompt in prompts[:n]:
            between = [p for p in prompts[prompts.index(prompt) + 1 : n] if not p.startswith("gold")]
            assert len(set(between)) >= 5


def test_nothing_that_the_browser_gets_tells_a_check_from_a_pair(place: Any) -> None:
    states = work(desk())
    for before, after in itertools.pairwise(states[:-1]):
        assert after["mine"] == before["mine"] + 1
        assert after["finished"] == before["finished"] + 1
        assert after["total"] == before["total"]
        assert after.keys() == before.keys()
        assert after["extra"] == before["extra"] == 0
    assert states[-1]["finished"] == states[-1]["total"]
    assert all(len(state["queue"]) == 4 for state in states[:35])
    for state in states:
        for question in state["queue"]:
            assert re.fullmatch("[0-9a-f]{32}", question["pair_id"])
            assert re.fullmatch("[0-9a-f]{32}", question["texts"])
            assert question.keys() == {"pair_id", "turns", "left", "right", "shown", "texts"}
    names = [state["queue"][0]["pair_id"] for state in states[:-1]]
    assert len(set(names)) == len(names)  # a repeat has a name of its own


def test_several_people_see_numbers_that_tell_nothing_either(place: Any) -> None:
    two = CHECKED.model_copy(update={"annotators_per_pair": 2})
    table = desk(two)
    for n in range(20):
        for who in ("ada", "bo"):
            before = table.state(who)
            give(table, who, before["queue"][0], "left", f"{who}{n}")
            after = table.state(who)
            assert after["mine"] == before["mine"] + 1
            checked = sum(check.annotator == who for check in read_checks(ANNOTATIONS))
            assert after["finished"] == (len(place.lines()) + checked) // 2  # whichever the last was
    assert len(kinds()) > 5
    work(table, "ada")
    work(table, "bo")
    state = table.state("ada")
    assert state["finished"] == state["total"]
    assert state["agreement"]["pairs"] == 40  # checks are no second annotation of anything
    said = folder_by_pair(ANNOTATIONS, "human")
    assert set(said) == set(place.ids)
    assert all(set(some) == {"ada", "bo"} for some in said.values())


def test_a_restart_gives_the_same_pairs_in_the_same_places(place: Any) -> None:
    one = desk()
    seen = work(one, most=30)[-1]
    again = desk().state("ada")
    assert {**again, "agreement": None} == {**seen, "agreement": None}
    other = desk().state("bo")
    assert [q["pair_id"] for q in other["queue"]] != [q["pair_id"] for q in again["queue"]]


def test_an_answer_from_before_a_restart_goes_where_it_belongs(place: Any) -> None:
    work(desk(), most=25)
    queue = desk().state("ada")["queue"]
    while not any(q["turns"][-1]["content"].startswith("gold") for q in queue):
        work(desk(), most=1)
        queue = desk().state("ada")["queue"]
    asked = next(q for q in queue if q["turns"][-1]["content"].startswith("gold"))
    fresh = desk()
    assert give(fresh, "ada", asked, "left", "late") == ""
    check = next(check for check in read_checks(ANNOTATIONS) if check.id == "late")
    assert fresh.checking.gold[check.pair_id].turns[-1][1] == asked["turns"][-1]["content"]
    pair = next(q for q in queue if not q["turns"][-1]["content"].startswith("gold"))
    give(desk(), "ada", pair, "left", "pair")
    assert desk().texts[place.lines()[-1]["pair_id"]].turns[-1][1] == pair["turns"][-1]["content"]


def test_a_check_can_be_taken_back_like_any_annotation(place: Any) -> None:
    table = desk()
    while not kinds():
        work(table, most=1)
    state = table.state("ada")
    question = table.undo(id=state["last"]["id"], annotator="ada")
    assert kinds() == []
    assert question == table.state("ada")["queue"][0]
    assert table.state("ada")["mine"] == state["mine"] - 1
    give(table, "ada", question, "tie", "second")
    assert [check.label for check in read_checks(ANNOTATIONS)] == [0.5]
    assert table.state("ada")["last"] == {"id": "second"}


def test_labels_do_not_know_of_checks(place: Any, tmp_path: Path) -> None:
    def labels(into: Path) -> tuple[bytes, str]:
        files = OracleFiles(Path("none"), ANNOTATIONS, BATCH, POOL, None)
        batch = dict.fromkeys(KEPT, np.zeros(40)) | read_table(BATCH)
        table, annotations = label(Human(), batch, files, number=0)
        write_table(into, table)
        return into.read_bytes(), jsonl(annotations)

    work(desk())
    assert kinds()
    with_checks = labels(tmp_path / "with.parquet")
    for path in checks_path(ANNOTATIONS).parent.glob("*"):
        path.unlink()
    assert labels(tmp_path / "without.parquet") == with_checks
    place.store.unlink()
    work(desk(Human()))  # the same person where nobody is checked
    assert labels(tmp_path / "never.parquet")[0] == with_checks[0]


def test_few_gold_pairs_end_and_the_pairs_go_on(place: Any) -> None:
    write_gold(3)
    states = work(desk())
    assert kinds().count("gold") == 3
    assert len(place.lines()) == 40
    assert states[-1]["finished"] == states[-1]["total"]


def test_where_nobody_is_checked_nothing_changes(place: Any) -> None:
    state = desk(Human()).state("ada")
    assert [q["pair_id"] for q in state["queue"]] == place.ids[:4]
    assert (state["total"], state["finished"]) == (40, 0)
    work(desk(Human()))
    assert not checks_path(ANNOTATIONS).exists()


def test_gold_pairs_are_read_anew_and_a_broken_file_stops_nobody(place: Any) -> None:
    table = desk()
    before = dict(table.checking.gold)
    Path(GOLD).write_text('{"prompt": "p", "chosen": 3}\n', encoding="utf-8")
    assert table.state("ada")["queue"]
    assert table.checking.gold == before
    assert "gold.jsonl:1" in overview(table, read_params()) or not table.said()
    assert "gold.jsonl:1" in table.checking.trouble
    write_gold(7)
    table.state("ada")
    assert (len(table.checking.gold), table.checking.trouble) == (7, "")
    keys = [gold.key for gold in table.checking.gold.values()]
    pairs = read_table(POOL / "pairs.parquet")
    write_table(POOL / "pairs.parquet", pairs | {"key": np.array((keys * 9)[:40], object)})
    with pytest.raises(ConfigError, match=r"gold\.jsonl: every gold pair is a pair of the pool too"):
        desk()


def test_the_campaign_says_who_needs_a_talk_and_why(place: Any) -> None:
    many = CHECKED.model_copy(update={"annotators_per_pair": 4})
    table = desk(many)
    work(table, "ada")
    work(table, "left", choose=lambda _: "left")
    page = overview(table, read_params())
    part = page.split("Annotators to talk to")[1].split("</section>")[0]
    named = dict(re.findall("<li><b>([^<]*)</b>: ([^<]*)</li>", part))
    assert list(named) == ["left"]
    assert "chosen" in named["left"] or "alike" in named["left"]
    rows = [re.findall("<t[hd][^>]*>([^<]*)</t", row) for row in part.split("</table>")[0].split("<tr>")]
    cells = {row[0]: row[1:] for row in rows if row}
    gold = sum(check.kind == "gold" and check.annotator == "ada" for check in read_checks(ANNOTATIONS))
    assert cells["ada"][0].startswith(f"100% ({gold} of {gold}, ")
    assert cells["left"][3].startswith("100% (")
    assert cells["left"][1].startswith("0% (0 of ")
    assert "The chance that a campaign of careful annotators ever names anybody is at most 5%" in part
    assert f"{len(read_checks(ANNOTATIONS))} annotations that check their annotator count too" in page


@pytest.mark.slow
def test_checks_survive_a_kill(campaign: Any, start: Any) -> None:
    place = campaign(pairs=30, gold={"path": GOLD, "share": 0.25})
    rows = [{"prompt": f"gold {n}?", "chosen": "yes", "rejected": "no"} for n in range(40)]
    (place.root / GOLD).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    server, answered = start(place.root), 0
    while not read_checks(place.root / "data/annotations"):
        question = server.state("ada")["queue"][0]
        sent = {name: question[name] for name in ("shown", "texts")}
        assert server.annotate("ada", question["pair_id"], **sent, id=f"n{answered}")[0] == 200
        answered += 1
    before = server.state("ada")
    server.stop(signal.SIGKILL)
    again = start(place.root).state("ada")
    assert again == before
    assert again["mine"] == answered


# ---- a batch that is edited while people label it


def test_a_batch_that_is_chosen_anew_loses_no_annotation_and_gives_none_to_another_pair(place: Any) -> None:
    table = desk(Human())
    first, second = table.state("ada")["queue"][:2]
    place.wait("entropy/round-0", place.ids[20:])
    assert give(table, "ada", first, "left", "1").startswith("The loop went on while you labelled")
    assert table.state("ada")["queue"][0]["pair_id"] == "pair-20"
    assert give(table, "ada", second, "right", "2").startswith("The loop went on")
    assert give(table, "ada", table.state("ada")["queue"][0], "left", "3") == ""
    assert [line["pair_id"] for line in place.lines()] == ["pair-0", "pair-1", "pair-20"]
    place.wait("entropy/round-0", place.ids[:3])  # a later round acquires them: their labels are there
    assert table.state("ada")["queue"][0]["pair_id"] == "pair-2"


def test_a_batch_whose_file_was_edited_by_hand_is_said_to_be(place: Any) -> None:
    table = desk(Human())
    table._contradicted = partial(contradicted, read_params())
    question = table.state("ada")["queue"][0]
    batch = read_table(BATCH)
    write_table(BATCH, {name: values[:10] for name, values in batch.items()})
    state = table.state("ada")
    assert (state["batch"], state["changed"], state["queue"]) == (None, "entropy, round 0", [])
    assert give(table, "ada", question, "left", "1").startswith("The loop went on")
    write_table(BATCH, batch)
    state = table.state("ada")
    assert (state["batch"], state["mine"]) == ("entropy, round 0", 1)


def test_texts_that_were_changed_under_the_same_name_take_no_label(place: Any) -> None:
    table = desk(Human())
    first, second, third = table.state("ada")["queue"][:3]
    responses = read_table(POOL / "responses.parquet")
    responses["text"][0] = "another answer"  # of pair-0
    write_table(POOL / "responses.parquet", responses)
    assert give(table, "ada", first, "left", "1") == CHANGED
    assert give(table, "ada", second, "left", "2") == ""
    assert [line["pair_id"] for line in place.lines()] == ["pair-1"]
    assert [(c.kind, c.pair_id) for c in read_checks(ANNOTATIONS)] == [("changed", "pair-0")]
    assert "another answer" in str(table.state("ada")["queue"][0])
    assert table.state("ada")["mine"] == 1
    pairs = read_table(POOL / "pairs.parquet")
    write_table(POOL / "pairs.parquet", {name: values[3:] for name, values in pairs.items()})
    assert give(table, "ada", third, "left", "3") == CHANGED  # the pool has no such pair any more
    assert [c.pair_id for c in read_checks(ANNOTATIONS)] == ["pair-0", "pair-2"]


def test_what_nobody_was_asked_is_refused(place: Any) -> None:
    pairs = read_table(POOL / "pairs.parquet")
    pairs["split"][30] = "heldout"
    write_table(POOL / "pairs.parquet", pairs)
    place.wait("entropy/round-0", place.ids[:5])
    table = desk(Human())
    for pair in ("pair-30", "nobody's"):
        with pytest.raises(ClosedError):
            table.annotate(id=pair, annotator="ada", pair_id=pair, choice="left", shown="ab", seconds=1.0)
    assert place.lines() == []


def test_the_checks_of_held_out_pairs_lie_outside_the_folder_that_a_stage_depends_on() -> None:
    assert checks_path(HELDOUT_ANNOTATIONS) == ANNOTATIONS / "checks/heldout.jsonl"
    assert checks_path(ANNOTATIONS) == ANNOTATIONS / "checks/people.jsonl"


def test_a_batch_by_name_is_read_anew_when_its_file_changes(place: Any) -> None:
    from bgpm.annotate.command import _named

    assert _named(BATCH)[0].pair_ids == tuple(place.ids)
    same = _named(BATCH)[0]
    assert _named(BATCH)[0] is same
    place.wait("entropy/round-0", place.ids[:5])
    assert _named(BATCH)[0] == OpenBatch(BATCH.as_posix(), tuple(place.ids[:5]), BATCH) == named(BATCH)


def test_a_check_is_written_with_its_kind(place: Any) -> None:
    work(desk(), most=30)
    lines = checks_path(ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["kind"] for line in lines} == set(kinds())
    assert all(isinstance(check, Check) for check in read_checks(ANNOTATIONS))
