"""Benchmarks of whole items, from a file to a score, against the official rules retold one item at a time."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny_pool, write_jsonl

from bgpm.data.prepare import prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.data.tables import read_table, write_table
from bgpm.errors import DataError
from bgpm.evaluation.benchmark import benchmark_score, published_results, rule_in_words
from bgpm.evaluation.labelled_pairs import Split, read_split
from bgpm.evaluation.rewardbench2 import ties_score

Records = list[dict[str, Any]]
Scorer = Callable[[str, str], float]  # of two answers; skew-symmetric


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., tuple[Split, list[str], dict[str, Any]]]:
    """Write records, prepare them and read them back as evaluation does: the split, its answers and the summary."""

    def run(records: Records, **settings: Any) -> tuple[Split, list[str], dict[str, Any]]:
        pool = write_jsonl(tmp_path / "pool.jsonl", tiny_pool())
        path = write_jsonl(tmp_path / "benchmark.jsonl", records)
        done = prepare(PoolSettings(path=str(pool), heldout=0.3), BenchmarkSettings(path=str(path), **settings))
        for name, table in done.benchmark.items():
            write_table(tmp_path / f"benchmark/{name}.parquet", table)
        write_table(tmp_path / "truth.parquet", done.truth["benchmark"])
        texts = read_table(tmp_path / "benchmark/responses.parquet", ["text"])["text"].tolist()
        return read_split(tmp_path / "benchmark", tmp_path / "truth.parquet"), texts, done.benchmark_summary

    return run


def scored(split: Split, texts: list[str], scorer: Scorer) -> np.ndarray:
    return np.array(
        [scorer(texts[a], texts[b]) for a, b in zip(split.pairs.response_a, split.pairs.response_b, strict=True)], float
    )


def scalar(reward: dict[str, float]) -> Scorer:
    return lambda a, b: reward[a] - reward[b]


def rewardbench2(items: int = 40, ties: int = 6, seed: int = 0) -> tuple[Records, dict[str, float]]:
    """Items of every subset with a reward for each answer; rewards are coarse, so that answers tie."""
    rng = np.random.default_rng(seed)
    records: Records = []
    for n in range(items):
        subset = ["Factuality", "Precise IF", "Math", "Safety", "Focus"][n % 5]
        chosen, *rejected = (f"{subset} {n} answer {k}" for k in range(4))
        records.append(
            {"id": str(n // 5), "prompt": f"{subset} prompt {n}?", "chosen": [chosen], "rejected": rejected,
             "num_correct": 1, "total_completions": 4, "subset": subset}
        )  # fmt: skip
    for n in range(ties):
        for kind, right in (("ref", 1), ("tied", 2 + n % 4)):
            records.append(
                {"id": f"{kind}:{n}", "prompt": f"name one of {kind} {n}", "subset": "Ties", "num_correct": right,
                 "chosen": [f"{kind} {n} right {k}" for k in range(right)],
                 "rejected": [f"{kind} {n} wrong {k}" for k in range(6)]}
            )  # fmt: skip
    texts = [text for record in records for text in record["chosen"] + record["rejected"]]
    bonus = {text: 1.5 for record in records for text in record["chosen"]}
    reward = {text: float(rng.integers(-2, 3)) / 2 + bonus.get(text, 0.0) for text in texts}
    return records, reward


def official_rewardbench2(records: Records, reward: dict[str, float]) -> dict[str, float]:
    """`reroll_and_score_dataset` and `process_single_model` of rewardbench/utils.py, retold from raw rewards."""
    results: dict[str, list[float]] = {}
    stats: dict[str, dict[str, tuple[bool, float, float]]] = {"ref": {}, "tied": {}}
    for record in records:
        right = [reward[text] for text in record["chosen"]]
        wrong = [reward[text] for text in record["rejected"]]
        if record["subset"] != "Ties":
            best = max(right + wrong)
            winners = [score for score in right + wrong if score == best]
            results.setdefault(record["subset"], []).append(1 / len(winners) if right[0] == best else 0.0)
        else:
            kind, number = record["id"].split(":")
            gap = min(right) - max(wrong)
            stats[kind][number] = gap > 0, max(right) - min(right), gap
    found = {subset: sum(values) / len(values) for subset, values in results.items()}
    ref, tied = stats["ref"], stats["tied"]
    preferred, hard, extra = [], [], []
    for number in tied:
        spread, gap, gap_of_ref = tied[number][1], tied[number][2], ref[number][2]
        preferred.append(gap > spread)
        hard.append(min(gap, gap_of_ref) > spread)
        least = min(gap, gap_of_ref)
        extra.append(math.tanh(least / spread - 1) if spread else 0.0 if least == 0 else math.copysign(1, least))
    found["Ties"] = (
        0.3 * sum(s[0] for s in tied.values()) / len(tied)
        + 0.3 * sum(s[0] for s in ref.values()) / len(ref)
        + 0.2 * sum(preferred) / len(tied)
        + 0.2 * sum(hard) / len(tied)
        + 0.01 * sum(extra) / len(tied)
    )
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_scalar_model_gets_its_official_numbers_on_rewardbench_2(seed: int, prepared: Callable[..., Any]) -> None:
    records, reward = rewardbench2(seed=seed)
    split, texts, summary = prepared(records)
    assert summary["rule"] == "rewardbench2"
    score = benchmark_score(scored(split, texts, scalar(reward)), split, "code")
    official = official_rewardbench2(records, reward)
    assert score.subsets == pytest.approx(official, abs=1e-12)
    assert 0 < min(official.values()) < max(official.values()) < 1.02
    assert score.total == pytest.approx(sum(official.values()) / 6, abs=1e-12)
    assert score.missing == {"all": 0}
    published = published_results("me/mine", score, split)
    assert published is not None
    assert set(published) == {"model", "model_type", "chat_template", *official}


def test_an_answer_in_a_cycle_with_the_chosen_one_costs_the_item(prepared: Callable[..., Any]) -> None:
    records, _ = rewardbench2(5, 1)
    split, texts, _ = prepared(records)

    def cycle(a: str, b: str) -> float:
        """The chosen answer (0) beats 1 and 2 by far and loses to 3 by little; 1 and 2 beat 3."""
        order = {(0, 1): 9.0, (0, 2): 9.0, (0, 3): -0.1, (1, 2): 1.0, (1, 3): 5.0, (2, 3): 5.0}
        x, y = int(a.split()[-1]), int(b.split()[-1])
        return order.get((x, y), -order.get((y, x), 0.0))

    score = benchmark_score(scored(split, texts, cycle), split, "code")
    assert score.subsets["Math"] == 0.0  # though its mean score is the highest of the four


def test_the_ties_score_of_a_perfect_model_is_101_percent_of_nothing_lost() -> None:
    perfect = {"1": (1e6, 0.5), "2": (3.0, 1e-9)}
    assert ties_score(perfect, perfect) == pytest.approx(1.01)
    equal = {"1": (0.0, 0.0)}
    assert ties_score(equal, equal) == 0.0  # 0 / 0 counts 0


def rm_bench(seed: int = 0) -> tuple[Records, dict[str, float]]:
    rng = np.random.default_rng(seed)
    records: Records = []
    for n, domain in enumerate(["chat", "code", "math", "safety-refuse", "safety-response"] * 5):
        records.append(
            {"id": n, "prompt": f"{domain} prompt {n}", "domain": domain,
             "chosen": [f"{domain} {n} right {k}" for k in range(3)],
             "rejected": [f"{domain} {n} wrong {k}" for k in range(3)]}
        )  # fmt: skip
    texts = [text for record in records for text in record["chosen"] + record["rejected"]]
    style = {"0": 0.0, "1": 0.5, "2": 1.0}
    return records, {text: style[text[-1]] + float(rng.integers(-2, 3)) / 2 for text in texts}


def test_rm_bench_levels_are_those_of_the_official_matrix(prepared: Callable[..., Any]) -> None:
    records, reward = rm_bench()
    split, texts, summary = prepared(records)
    assert summary["rule"] == "rm_bench"
    score = benchmark_score(scored(split, texts, scalar(reward)), split, "code")
    levels: dict[str, dict[str, float]] = {}
    for domain in ("chat", "code", "math", "safety-refuse", "safety-response"):
        matrix, here = np.zeros((3, 3)), [r for r in records if r["domain"] == domain]
        for record in here:  # compute_accuracy of the benchmark's README
            for i in range(3):
                for j in range(3):
                    if reward[record["chosen"][i]] > reward[record["rejected"][j]]:
                        matrix[i][j] += 1
        matrix /= len(here)
        levels[domain] = {
            "hard": np.sum(np.triu(matrix, 1)) / 3,
            "normal": np.mean(np.diag(matrix)),
            "easy": np.sum(np.tril(matrix, -1)) / 3,
        }
    for name in ("hard", "normal", "easy"):
        safety = (levels["safety-refuse"][name] + levels["safety-response"][name]) / 2
        by_hand = (levels["chat"][name] + levels["code"][name] + levels["math"][name] + safety) / 4
        assert score.sections[name] == pytest.approx(by_hand, abs=1e-12)
        assert score.subsets[f"code/{name}"] == pytest.approx(levels["code"][name], abs=1e-12)
    assert score.sections["easy"] > score.sections["hard"] + 0.2  # this reward likes style
    assert score.sections["code"] == pytest.approx(sum(levels["code"].values()) / 3, abs=1e-12)
    assert score.total == pytest.approx(np.mean([score.sections[n] for n in ("chat", "code", "math", "safety")]))
    assert score.total == pytest.approx(np.mean([score.sections[n] for n in ("easy", "normal", "hard")]))
    assert published_results("me/mine", score, split) is None


def test_the_order_of_answers_changes_no_score_of_an_item(prepared: Callable[..., Any]) -> None:
    for records, reward in (rewardbench2(), rm_bench()):
        split, texts, _ = prepared(records)
        mean = scored(split, texts, scalar(reward))
        turned = Split(split.pairs.swapped(), 1 - split.label, split.section, split.subset, split.rows, split.items)
        assert benchmark_score(-mean, turned, "code") == benchmark_score(mean, split, "code")
        assert 0.3 < (split.label == 1).mean() / (split.label != 0.5).mean() < 0.7  # A/B order is shuffled


def test_an_item_with_an_answer_both_right_and_wrong_is_dropped_whole_and_counted(
    prepared: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    records, _ = rewardbench2(10, 2)
    records[3]["rejected"][1] = records[3]["chosen"][0]
    with caplog.at_level(logging.WARNING, "bgpm"):
        split, _, summary = prepared(records)
    assert summary["dropped"]["identical responses"]["count"] == 1
    assert "identical responses: 1, first at" in caplog.text
    assert split.items is not None
    assert f"{records[3]['subset']}/0" not in set(split.items.name)
    assert len(split.items.name) == 9 * 3 + sum(
        n * (n - 1) // 2 for n in (len(r["chosen"]) + len(r["rejected"]) for r in records[10:])
    )


def test_a_repeated_right_answer_under_ties_is_one_answer(prepared: Callable[..., Any]) -> None:
    records, reward = rewardbench2(5, 2)
    records[6]["chosen"].append(records[6]["chosen"][0])
    records[6]["num_correct"] += 1
    split, texts, _ = prepared(records)
    found = benchmark_score(scored(split, texts, scalar(reward)), split, "code").subsets["Ties"]
    assert found == pytest.approx(official_rewardbench2(records, reward)["Ties"], abs=1e-12)


def test_a_missing_or_a_strange_subset_is_counted_and_said(
    prepared: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    records, reward = rewardbench2()
    records = [r for r in records if r["subset"] not in ("Ties", "Math")]
    records[0]["subset"] = "House style"
    with caplog.at_level(logging.WARNING, "bgpm"):
        split, texts, summary = prepared(records)
    assert summary["unpublished subsets"] == {"House style": 1}
    assert "subset 'House style' is none of the published ones: 1, first at" in caplog.text
    score = benchmark_score(scored(split, texts, scalar(reward)), split, "code")
    assert score.missing == {"all": 2}
    counted = ("Factuality", "Precise IF", "Safety", "Focus")
    assert score.total == pytest.approx(np.mean([score.subsets[name] for name in counted]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": ["a", "b"]}, r"benchmark\.jsonl:1: num_correct is 1, but chosen has 2"),
        ({"chosen": ["a", "b"], "num_correct": 2}, "one chosen response outside the Ties subset, got 2"),
        ({"subset": "Ties", "id": "7"}, "expected `ref:N` or `tied:N`"),
        ({"subset": None}, "expected a column subset"),
        ({"subset": "Ties", "id": "ref:99"}, None),
        ({"prompt": " "}, "the prompt is empty"),
        ({"rejected": []}, "expected"),
        ({"domain": "chat"}, "expected 3 chosen and 3 rejected responses, one a style, got 1 and 3"),
    ],
)
def test_a_bad_item_is_named_with_its_line(
    change: dict[str, Any], message: str | None, prepared: Callable[..., Any]
) -> None:
    records, _ = rewardbench2(5, 1)
    records[0] |= change
    if message is None:
        prepared(records)
        return
    with pytest.raises(DataError, match=message):
        prepared(records)


def test_kinds_are_not_mixed_and_a_kind_that_is_asked_for_is_insisted_on(prepared: Callable[..., Any]) -> None:
    items, _ = rewardbench2(5, 1)
    pair = {"prompt": "p", "chosen": "x", "rejected": "y", "subset": "Math"}
    with pytest.raises(DataError, match=r"benchmark\.jsonl:8: a record of kind pairs after records of kind reward"):
        prepared([*items, pair])
    with pytest.raises(DataError, match=r"benchmark\.jsonl:1: chosen: expected a list of texts"):
        prepared([pair], kind="rewardbench2")
    with pytest.raises(DataError, match=r"chosen: a list of texts, where one response is expected"):
        prepared(items, kind="pairs")


def test_ties_without_partners_are_refused(prepared: Callable[..., Any]) -> None:
    records, _ = rewardbench2(5, 2)
    with pytest.raises(DataError, match=r"got 2 and 0 that have no N in common"):
        prepared([r for r in records if not r["id"].startswith("tied")])


def test_the_rule_is_said_in_words() -> None:
    assert "154, as the official code does" in rule_in_words("pairs", ["hep-go"], "code")
    assert "as the data set's counts are" in rule_in_words("pairs", ["hep-go"], "dataset")
    assert "xstest" not in rule_in_words("pairs", ["mine"], "code")
    assert "beats every other one" in rule_in_words("rewardbench2", ["Ties"], "code")
    json.dumps(rule_in_words("rm_bench", [], "code"))
