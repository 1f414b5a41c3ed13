"""Baselines that read no meaning: position, length, vocabulary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bgpm.data.tables import write_table
from bgpm.evaluation.baselines import TextSplit, baselines, benchmark_scores, heldout_scores, word_scores
from bgpm.evaluation.labelled_pairs import Split
from bgpm.types import Pairs
from stages.baselines import main


def split(texts: list[str], label: list[float], section: str = "chat", subset: str = "advice") -> TextSplit:
    """Pairs of neighbouring texts, one pair a prompt."""
    n = len(label)
    rows = np.arange(n)
    pairs = Pairs(2 * rows, 2 * rows + 1, rows)
    names = [np.array([name] * n, dtype=object) for name in (section, subset)]
    return TextSplit(Split(pairs, np.array(label, float), *names, rows), texts)


def turned(data: TextSplit) -> TextSplit:
    pairs = replace(data.split, pairs=data.split.pairs.swapped(), label=1 - data.split.label)
    return replace(data, split=pairs)


def planted(n: int, seed: int) -> TextSplit:
    """The answer that says ``please`` is better; lengths and every other word are noise."""
    rng = np.random.default_rng(seed)
    texts, label = [], []
    for k in range(n):
        first_better = bool(rng.integers(2))
        for kind in (first_better, not first_better):
            words = rng.choice(["river", "clock", "bread", "engine", "garden"], rng.integers(2, 9)).tolist()
            texts.append(" ".join([*words, "please" if kind else "whatever", f"n{k}"]))
        label.append(float(first_better))
    return split(texts, label)


def test_words_find_a_planted_word_and_length_does_not() -> None:
    found = baselines(planted(120, 0), planted(80, 1), planted(80, 2), xstest="code")
    rules = found["rules"]
    assert rules["words"]["heldout"]["all"] > 0.95
    assert 0.3 < rules["length"]["heldout"]["all"] < 0.7
    assert found["labels"] == 120


def test_swapping_the_answers_flips_the_score_of_words() -> None:
    train, test = planted(60, 0), planted(20, 1)
    swapped = turned(test)
    forward, backward = word_scores(train, [test, swapped])
    assert np.abs(forward + backward).max() < 1e-12
    assert np.abs(forward).min() > 0.1


@pytest.mark.parametrize("longer_wins", [True, False])
def test_length_follows_the_direction_of_the_labels(longer_wins: bool) -> None:
    texts = [text for _ in range(10) for text in ("one two three", "one")]
    data = split(texts, [float(longer_wins)] * 10)
    found = baselines(data, data, data, xstest="code")
    assert found["rules"]["length"]["heldout"]["all"] == 1.0
    assert any(("longer" if longer_wins else "shorter") in note for note in found["notes"])


def test_a_tied_score_is_half_right_on_held_out_pairs_and_wrong_on_the_benchmark() -> None:
    data = split(["same length", "as this"] * 4, [1.0, 1.0, 0.0, 0.0])
    assert heldout_scores(np.zeros(4), data.split)["all"] == 0.5
    assert benchmark_scores(np.zeros(4), data.split, "code")["all"] == 0.0


def test_the_benchmark_score_is_the_mean_over_sections_or_rewardbench_s_rule() -> None:
    data = split(["a", "b"] * 4, [1.0, 1.0, 1.0, 1.0]).split
    sections = np.array(["chat", "chat", "chat", "safety"], dtype=object)
    scores = np.array([1.0, 1.0, -1.0, 1.0])
    plain = replace(data, section=sections, subset=sections)
    assert benchmark_scores(scores, plain, "code") == pytest.approx(
        {"all": (2 / 3 + 1) / 2, "chat": 2 / 3, "safety": 1}
    )
    subsets = np.array(["alpacaeval-easy", "alpacaeval-easy", "mt-bench-easy", "donotanswer"], dtype=object)
    official = replace(data, section=sections, subset=subsets)
    assert benchmark_scores(scores, official, "code")["chat"] == pytest.approx(100 / 128)


def test_without_labels_only_what_needs_none_is_computed_and_that_is_said() -> None:
    nothing = split([], [])
    found = baselines(nothing, planted(10, 1), planted(10, 2), xstest="code")
    assert list(found["rules"]) == ["first"]
    assert "no recorded labels" in found["notes"][0]
    assert baselines(nothing, nothing, nothing, xstest="code")["rules"] == {"first": {}}


def test_without_held_out_labels_or_with_ties_alone_the_benchmark_is_measured() -> None:
    nothing = split([], [])
    for heldout in (nothing, split(["a b", "c"] * 3, [0.5] * 3)):
        found = baselines(planted(120, 0), heldout, planted(80, 2), xstest="code")
        assert {tuple(scores) for scores in found["rules"].values()} == {("benchmark",)}
        assert found["rules"]["words"]["benchmark"]["all"] > 0.9


def test_labels_that_always_favour_the_first_answer_teach_words_and_no_position() -> None:
    data = split(["one two", "three"] * 8, [1.0] * 8)
    forward, backward = word_scores(data, [data, turned(data)])
    assert (forward > 0).all()
    assert (backward < 0).all()


def test_labels_on_fewer_prompts_than_folds_leave_words_undecided() -> None:
    (scores,) = word_scores(planted(4, 0), [planted(10, 1)])
    assert (scores == 0).all()


def test_the_stage_reads_labels_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("benchmark: {xstest_weights: code}\n", encoding="utf-8")
    data = planted(40, 0)
    ids = [f"p{n}" for n in range(40)]
    for name in ("pool", "benchmark"):
        write_table(tmp_path / f"data/{name}/responses.parquet", {"text": data.texts})
        pairs = {key: getattr(data.split.pairs, key) for key in ("response_a", "response_b", "prompt")}
        write_table(
            tmp_path / f"data/{name}/pairs.parquet",
            {"pair_id": ids, **pairs, "section": data.split.section, "subset": data.split.subset},
        )
    for name, rows in (("pool", slice(0, 30)), ("heldout", slice(30, 40)), ("benchmark", slice(0, 40))):
        label = data.split.label[rows].copy()
        label[0] = np.nan
        write_table(tmp_path / f"data/truth/{name}.parquet", {"pair_id": ids[rows], "label": label})
    main()
    found = json.loads((tmp_path / "data/baselines.json").read_text(encoding="utf-8"))
    assert found["labels"] == 29
    assert found["rules"]["words"]["heldout"]["all"] == 1.0
    assert found["rules"]["first"]["benchmark"]["all"] == pytest.approx(data.split.label[1:].mean())
