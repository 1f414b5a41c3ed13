"""Argilla and Label Studio take our files and we take theirs, by their own packages: each in an environment of its own.

`make neighbours` makes the environments. Nothing asks a server.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from exchanged import AT, KNOWN, QUESTIONS, facts

from bgpm.annotations.choices import WORDS
from bgpm.annotations.store import Annotation, LabelStore
from bgpm.labels import export_annotations, import_annotations

SAID = [
    Annotation("p", 1.0, "ada", AT, seconds=3.5),
    Annotation("p", 0.0, "bo@example.org", AT, strength="clear"),
    Annotation("q", 0.5, "ada", "", flags=("both_bad",)),
    Annotation("q", 1.0, "bo@example.org", AT, strength="much"),
    Annotation("r", None, "ada", AT),
    Annotation("r", 0.5, "Zo\u00eb", AT, seconds=2.0),
    Annotation("r", 0.0, "0b8a3f6c-1d27-4c55-9d53-6f0e3ad04c55", AT, strength="slight"),
]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def neighbour(name: str, *words: object) -> None:
    """Run a check in the environment of a package."""
    python = ROOT / ".venv-neighbours" / name / "bin/python"
    if not python.exists():
        pytest.skip(f"needs {python.relative_to(ROOT)}: make neighbours")
    command = [python, Path(__file__).with_name("neighbours") / f"{name}_check.py", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_argilla_takes_our_records_and_we_take_each_shape_that_it_writes(tmp_path: Path) -> None:
    file = write(tmp_path / "records.json", export_annotations(SAID, "argilla", QUESTIONS))
    neighbour("argilla", file, tmp_path, *WORDS)
    labelled = [a for a in SAID if a.label is not None]
    for shape in ("record", "columns", "server"):
        store = LabelStore(tmp_path / f"{shape}.jsonl")
        assert import_annotations(tmp_path / f"{shape}.json", "argilla", store, KNOWN) == len(labelled)
        got = {(a.pair_id, a.label, a.strength, a.flags, a.annotator) for a in store.annotations()}
        assert got == {(a.pair_id, a.label, a.strength, a.flags, a.annotator) for a in labelled}


def config() -> str:
    """The labelling configuration that the documentation gives."""
    text = (ROOT / "docs/labelling.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"```xml\n(.*?)```", text, re.S)
    return found


def test_the_documented_configuration_has_every_word_that_we_write() -> None:
    assert re.findall(r'<Choice value="([^"]*)"', config()) == WORDS


@pytest.mark.slow
def test_label_studio_takes_our_tasks_and_we_take_each_shape_that_it_writes(tmp_path: Path) -> None:
    file = write(tmp_path / "ours.json", export_annotations(SAID, "label-studio", QUESTIONS))
    (tmp_path / "config.xml").write_text(config(), encoding="utf-8")
    neighbour("label_studio", file, tmp_path / "config.xml", tmp_path)
    for shape in ("JSON/result.json", "JSON_MIN/result.json", "CSV/result.csv"):
        store = LabelStore(tmp_path / f"{shape}.jsonl")
        given = [replace(a, at=a.at or "2026-12-01T00:00:00+00:00") for a in SAID]
        if not shape.startswith("JSON/"):  # the others leave out what was cancelled
            given = [a for a in given if a.label is not None]
        assert import_annotations(tmp_path / shape, "label-studio", store, KNOWN) == len(given)
        assert facts(store.annotations()) == facts(given)


@pytest.mark.slow
def test_a_batch_that_nobody_labelled_is_what_both_take(tmp_path: Path) -> None:
    for shape, name, more in (("argilla", "argilla", WORDS), ("label-studio", "label_studio", [])):
        file = write(tmp_path / f"{name}.json", export_annotations([], shape, QUESTIONS))
        if name == "argilla":
            neighbour(name, file, tmp_path, *more)
            assert len(json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))) == len(QUESTIONS)
        else:
            (tmp_path / "config.xml").write_text(config(), encoding="utf-8")
            neighbour(name, file, tmp_path / "config.xml", tmp_path)
