"""The templates of the page: each text that they are given comes out escaped, and none of them may be missing."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import hostile
from jinja2 import UndefinedError
from markupsafe import escape

from bgpm.data.tables import read_table, write_table
from bgpm.reporting import page as page_module
from bgpm.reporting.templates import render
from stages.report import main

Make = Callable[..., Path]


@pytest.fixture
def said(finished_run: Make, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What index.html.j2 is given in a run with every section of the page."""
    root = finished_run()
    for path in root.glob("data/*/round-*/evaluation/curve.csv"):
        with path.open("a", encoding="utf-8", newline="") as file:
            rows = [
                (seed, 0, 32, "estimated", "all", f"{metric}{part}", value)
                for seed in range(5)
                for metric in ("accuracy", "nll")
                for part, value in (("", 0.6), ("_error", 0.02), ("_labels", 32))
            ]
            csv.writer(file, lineterminator="\n").writerows(rows)
    given: dict[str, Any] = {}
    monkeypatch.setattr(page_module, "render", lambda name, **data: given.setdefault(name, data) and "")
    main()
    assert all(given["index.html.j2"][name] for name in ("targets", "expectations", "certainty", "estimates", "pairs"))
    return given["index.html.j2"]


def test_a_template_that_lacks_one_of_its_names_is_an_error(said: dict[str, Any]) -> None:
    assert render("index.html.j2", **said).startswith("<!doctype html>\n")
    for name in said:
        with pytest.raises(UndefinedError, match=f"'{name}' is undefined"):
            render("index.html.j2", **{other: value for other, value in said.items() if other != name})
    with pytest.raises(UndefinedError, match="'rows' is undefined"):
        render("costs.html.j2")
    del said["answer"]["sentence"]
    with pytest.raises(UndefinedError, match="has no attribute 'sentence'"):
        render("index.html.j2", **said)


def test_every_text_that_a_template_is_given_comes_out_escaped(said: dict[str, Any]) -> None:
    texts: list[str] = []
    html = render("index.html.j2", **hostile(said, texts))
    assert len(texts) > 300
    assert "<i " not in html
    assert [text for text in texts if escape(text) not in html] == []


def test_names_of_arms_and_sections_texts_and_parameters_come_out_escaped_in_charts_too(finished_run: Make) -> None:
    def named(what: str) -> str:
        return f"<i title='a' class=\"b\">{what}"

    arms, places = (named("arm"), named("base")), ("prompt", "response", "section", "part", "params", "rule", "stage")
    root = finished_run({arms[0]: (2.6, 0.72), arms[1]: (0.8, 0.72)})
    for path in root.glob("data/*/round-8/evaluation/curve.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = [[named("part") if cell == "chat" else cell for cell in row] for row in csv.reader(file)]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    for table, column in (("prompts", "text"), ("responses", "text"), ("pairs", "section")):
        path, what = root / f"data/pool/{table}.parquet", "section" if table == "pairs" else table[:-1]
        found = read_table(path)
        names = [f"{named(what)} {value}" for value in found[column]]
        write_table(path, {**found, column: np.array(names, dtype=object)})
    with (root / "params.yaml").open("a", encoding="utf-8") as file:
        file.write(f"# {named('params')}\n")
    baselines = root / "data/baselines.json"
    rules = json.loads(baselines.read_text(encoding="utf-8"))
    rules["rules"][named("rule")] = {"heldout": {"all": 0.5}}
    baselines.write_text(json.dumps(rules), encoding="utf-8")
    (root / f".timings/{named('stage')}.json").write_text('{"seconds": 1, "cpu_seconds": 1, "peak_mib": 1}')
    main()
    html = "".join((root / f"reports/{name}.html").read_text(encoding="utf-8") for name in ("index", "costs"))
    assert "<i " not in html
    for what in ("arm", "base", *places):
        assert f"&gt;{what}" in html
    charts = [svg.split("</svg>")[0] for svg in html.split('<svg class="')[1:]]
    assert len(charts) > 20
    assert all("&lt;i title=" in chart for chart in charts)
