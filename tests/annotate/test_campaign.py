"""A campaign of people from unlabelled pairs to the report: real DVC, the page in a real browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUALITIES, Project, tiny_pool, write_jsonl

from benchmarks.human_campaign import campaign, label_everything, server
from bgpm.data.tables import read_table


def goodness(text: str) -> int:
    return sum(word in QUALITIES["good"].split() for word in text.split())


def judge(person: str, left: str, right: str) -> float:
    """What the tiny pool's record would say."""
    return float(goodness(left) > goodness(right))


@pytest.mark.slow
def test_people_label_two_batches_and_a_held_out_set_and_the_report_comes_out(
    finished_project: Project, tmp_path: Path, browser: Any
) -> None:
    project = finished_project.clone(tmp_path / "project")
    bare = [{name: value for name, value in row.items() if name != "label"} for row in tiny_pool()]
    write_jsonl(project.folder / "tiny/pool.jsonl", bare)
    project.params(oracle="human", seeds=[0], baseline="entropy")
    project.params(oracles__human__annotators_per_pair=2)
    people, batches = ("ada", "bo"), []
    # The seed set and a round; then the report has nothing to measure with.
    with pytest.raises(RuntimeError, match="no held-out labels yet"):
        batches.extend(campaign(project.folder, project.env, browser, people, judge))
    assert batches == [
        "data/start/batch.parquet: 16 answers",
        "data/entropy/round-0/batch.parquet: 12 answers",
    ]
    acquired = read_table(project.folder / "data/entropy/round-1/labels.parquet")
    pairs = read_table(project.folder / "data/pool/pairs.parquet")
    texts = read_table(project.folder / "data/pool/responses.parquet")["text"]
    better = [
        goodness(texts[pairs["response_a"][p]]) > goodness(texts[pairs["response_b"][p]]) for p in acquired["pair"]
    ]
    np.testing.assert_array_equal(acquired["label"], np.array(better, float))
    assert acquired["annotators"].tolist() == [2] * 14
    model = project.read("data/entropy/round-1/model/seed-0.safetensors")

    with server(project.folder, project.env, "--heldout", "--limit", "9") as url:
        assert label_everything(browser, url, people, judge) == 18
        browser.get(url + "campaign")
        assert "9 held-out pairs" in browser.find_element("tag name", "main").text
    project.dvc("repro")
    truth = read_table(project.folder / "data/truth/heldout.parquet")
    assert (~np.isnan(truth["label"])).sum() == 9
    curve = project.read("data/entropy/round-1/evaluation/curve.csv").decode()
    assert curve.count(",heldout,all,accuracy,") == 2
    assert json.loads(project.read("reports/metrics.json"))["labels"] == 14
    assert project.read("data/entropy/round-1/model/seed-0.safetensors") == model  # they measure and never train
    assert not list((project.folder / "data").rglob("waiting.json"))
    with server(project.folder, project.env) as url:
        browser.get(url + "campaign")
        text = browser.find_element("tag name", "main").text
        assert len(browser.find_elements("css selector", "svg.chart circle")) == 2
    assert "Nothing waits for a label" in text
    assert "with 14 labels, on 9 labelled pairs" in text
