"""The campaign page: the sentence for each state, and texts that come out escaped, all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_jsonl
from hostile import HOSTILE, hostile
from jinja2 import UndefinedError
from markupsafe import escape

from bgpm.annotate import overview as module
from bgpm.annotate.batches import OpenBatch, PoolTexts, waiting
from bgpm.annotate.desk import Desk
from bgpm.annotate.overview import SECTIONS, _forecast, _standing, overview
from bgpm.annotate.rounds import RoundState
from bgpm.annotate.templates import ENVIRONMENT, render
from bgpm.annotations.store import LabelStore
from bgpm.data.tables import write_table
from bgpm.evaluation.arm import Arm
from bgpm.evaluation.savings import Trials
from bgpm.oracles.human import Human
from bgpm.stage import ANNOTATIONS, POOL, read_params

PIECES = ENVIRONMENT.get_template("campaign_parts.html.j2").module


def arm(points: int) -> Arm:
    labels = 16 + 32 * np.arange(points)
    curve = (0.8 - 1.2 * labels**-0.6 + 0.002 * np.random.default_rng(0).normal(size=(2, points)))[:, :, None]
    audits = {"given": labels, "inferred": 400 - labels, "audited": 40, "wrong": 2, "pool": 400}
    values = {("pool", "all", f"audit_{name}"): np.full((2, points), number) for name, number in audits.items()}
    values["heldout", "all", "accuracy"] = curve[:, :, 0]
    trials = Trials(labels.astype(float), curve, np.ones(1))
    return Arm("<b>mine</b>", np.arange(2), np.arange(points), labels, (), values, trials, {})


def test_a_young_campaign_says_what_a_forecast_needs_and_an_older_one_gives_it() -> None:
    assert "a forecast needs 4 points of the curve, here are 3" in PIECES.forecast(_forecast(arm(3), 900))
    page = PIECES.forecast(_forecast(arm(8), 900))
    assert "272 labels</th>" in page  # the next round is as large as the last: 240 + 32
    assert page.count("<tr>") == 2 + 4 + 3
    assert "&lt;b&gt;mine&lt;/b&gt;: the next rounds" in page
    assert "<b>mine" not in page


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (RoundState("running", HOSTILE, 2, 7), f"The next round runs, step 3 of 7: {escape(HOSTILE)}."),
        (RoundState("running", "Look"), "The next round runs: Look."),
        (RoundState("failed", error=HOSTILE), f"<b>The round failed:</b> {escape(HOSTILE)}. The labelling page has a "),
        (RoundState("idle"), "Every pair is annotated. The next round begins in a moment."),
        (RoundState("busy"), "Another <code>dvc</code> works in this folder."),
        (RoundState("finished"), "The last round is through."),
    ],
)
def test_the_round_that_the_server_runs_is_spoken_of_where_no_pair_waits(state: RoundState, sentence: str) -> None:
    batch = OpenBatch(HOSTILE, ("pair-0", "pair-1"))
    said = PIECES.standing(_standing(batch, 0, asdict(state))).strip()
    assert said.startswith(sentence)
    waits = PIECES.standing(_standing(batch, 1, asdict(state))).strip()
    assert waits == f"{escape(HOSTILE)}: <b>1</b> of 2 pairs wait for a label."


def test_without_a_round_of_the_server_the_page_says_what_to_run() -> None:
    assert "Nothing waits for a label. <code>dvc repro</code> goes on" in PIECES.standing(_standing(None, 0, None))
    labelled = PIECES.standing(_standing(OpenBatch("seed set", ("pair-0",)), 0, None))
    assert "seed set: every pair is labelled. Run <code>dvc repro</code>" in labelled


@pytest.fixture
def said(campaign: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the template is given in a campaign with every section of the page."""
    place, start, batch = campaign(pairs=900), Path("data/start"), Path("data/entropy/round-0")
    monkeypatch.chdir(place.root)
    place.params(goal="pool")
    place.wait("entropy/round-0", place.ids[:8])
    write_table(batch / "asked.parquet", {"pair_id": place.ids[:10]})  # two of them are audits
    (batch / "waiting.json").write_text(json.dumps({"pairs": place.ids[:10]}), encoding="utf-8")
    rows = [
        {
            "pair_id": pair,
            "label": 1.0,
            "annotator": who,
            "id": who + pair,
            "seconds": 0.1,
            "cost": 1.0,
            "note": HOSTILE,
        }
        for who in ("ada", "bo")
        for pair in place.ids
    ]
    write_jsonl(place.store, [*rows, {**rows[0], "label": 0.0, "id": "another"}])
    for name in ("labels", "audits"):
        write_table(start / f"{name}.parquet", {"pair_id": place.ids[20:22]})
    write_jsonl(start / "annotations.jsonl", [rows[20]])  # bo's of that pair came too late
    write_jsonl(ANNOTATIONS / "checks/page.jsonl", [{**rows[0], "id": "check", "kind": "repeat"}])
    monkeypatch.setattr(module, "_measured", lambda *_: iter([arm(3), arm(8)]))
    monkeypatch.setattr(module, "SHOWN", 3)
    found: dict[str, Any] = {}
    monkeypatch.setattr(module, "render", lambda **sections: found.update(sections) or "")
    desk = Desk(PoolTexts(POOL), lambda: waiting(read_params()), LabelStore(place.store), Human)
    desk.checking.trouble = "gold.jsonl:1: cannot be read"
    overview(desk, read_params())
    assert all(isinstance(found[name], dict | list) for name in SECTIONS), found
    return found


def test_a_page_that_lacks_a_section_or_a_part_of_one_is_an_error(said: dict[str, Any]) -> None:
    assert render(**said).startswith("<!doctype html>\n")
    for name in SECTIONS:
        with pytest.raises(UndefinedError, match=f"'{name}' is undefined"):
            render(**{other: value for other, value in said.items() if other != name})
    for name in ("people", "talks", "remarks", "beside", "agreement", "batch"):
        for part in said[name]:
            less = {other: value for other, value in said[name].items() if other != part}
            with pytest.raises(UndefinedError, match=f"has no attribute '{part}'"):
                render(**said | {name: less})


def test_every_text_of_the_page_comes_out_escaped(said: dict[str, Any]) -> None:
    assert said["curve"]["forecasts"][0]["missing"]
    assert said["curve"]["forecasts"][1]["rounds"]
    assert said["talks"]["named"]
    assert all(said["people"].values())
    assert all(said["beside"].values())
    assert all(value for name, value in said["batch"].items() if name != "heldout")
    texts: list[str] = []
    phase = said["people"]["standing"].pop("phase")
    page = hostile(said, texts)
    page["people"]["standing"]["phase"] = phase
    html = render(**page)
    assert len(texts) > 150
    assert "<i " not in html
    assert [text for text in texts if escape(text) not in html] == []
    sentences: dict[str, str] = {name: f"{HOSTILE}{name}" for name in SECTIONS}
    html = render(**sentences)  # where a file of each section cannot be read
    assert "<i " not in html
    assert [text for text in sentences.values() if escape(text) not in html] == []


def test_a_file_that_cannot_be_read_is_named_in_its_own_section_and_hides_no_other(
    campaign: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = campaign()
    monkeypatch.chdir(place.root)
    place.params(goal="pool")
    broken = {
        "Labels, time and money": Path("data/annotations/heldout/by-hand.jsonl"),
        "Annotations without a label": Path("data/start/annotations.jsonl"),
        "Right labels of the pool, certified": (curve := Path("data/entropy/round-0/evaluation/curve.csv")),
        "Held-out accuracy so far": curve,
    }
    for path in broken.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"label": "<i>"}\n', encoding="utf-8")
    desk = Desk(PoolTexts(POOL), lambda: waiting(read_params()), LabelStore(place.store), Human)
    sections = {
        part.split("</h2>")[0]: part.split("</h2>")[1] for part in overview(desk, read_params()).split("<h2>")[1:]
    }
    assert {title: f"<p>{path}" in sections[title] for title, path in broken.items()} == dict.fromkeys(broken, True)
    assert "12 pairs of entropy, round 0" in sections["The batch that waits, and why"]
    assert "No pair was labelled by two people yet." in sections["Agreement and noise"]
