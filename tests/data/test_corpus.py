"""The shipped corpus is what its settings promise: large, varied, without an easy trick, and the same every time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bgpm.data.corpus import (
    ATTRIBUTES,
    AnnotatorSettings,
    CorpusPair,
    all_pairs,
    as_rows,
    count_cycles,
    read_annotators,
    read_corpus,
    split_corpus,
    utilities,
)
from bgpm.errors import ConfigError, DataError

FOLDER = Path(__file__).resolve().parents[2] / "data" / "corpus"
SECTIONS = ("chat", "chat-hard", "reasoning", "safety")


@pytest.fixture(scope="module")
def corpus() -> list[dict[str, Any]]:
    return read_corpus(FOLDER)


@pytest.fixture(scope="module")
def settings() -> AnnotatorSettings:
    return read_annotators(FOLDER)


@pytest.fixture(scope="module")
def pairs(settings: AnnotatorSettings, corpus: list[dict[str, Any]]) -> list[CorpusPair]:
    return all_pairs(settings, corpus)


@pytest.fixture(scope="module")
def split(settings: AnnotatorSettings, corpus: list[dict[str, Any]]) -> tuple[list[CorpusPair], list[CorpusPair]]:
    return split_corpus(settings, corpus)


# The texts.


def test_there_are_enough_prompts_in_four_sections_of_like_size(corpus: list[dict[str, Any]]) -> None:
    sizes = Counter(entry["section"] for entry in corpus)
    assert len(corpus) >= 240
    assert tuple(sorted(sizes)) == SECTIONS
    assert min(sizes.values()) >= 50, sizes
    assert len({entry["prompt"].strip().lower() for entry in corpus}) == len(corpus)
    assert len({entry["id"] for entry in corpus}) == len(corpus)
    assert min(Counter(entry["subset"] for entry in corpus).values()) >= 8


def test_every_prompt_has_4_to_8_different_answers_with_six_attributes_from_0_to_3(
    corpus: list[dict[str, Any]],
) -> None:
    for entry in corpus:
        responses = entry["answers"]
        assert 4 <= len(responses) <= 8, entry["id"]
        assert len({" ".join(a["text"].lower().split()) for a in responses}) == len(responses), entry["id"]
        for response in responses:
            assert response["text"].strip() == response["text"] != "", entry["id"]
            assert all(type(response[name]) is int and 0 <= response[name] <= 3 for name in ATTRIBUTES), entry["id"]
    used = Counter(response[name] for entry in corpus for response in entry["answers"] for name in ATTRIBUTES)
    assert min(used[value] for value in range(4)) > 0.02 * used.total(), used


def test_different_prompts_share_almost_no_run_of_seven_words(corpus: list[dict[str, Any]]) -> None:
    runs: list[set[tuple[str, ...]]] = []
    for entry in corpus:
        mine: set[tuple[str, ...]] = set()
        for text in [entry["prompt"], *(a["text"] for a in entry["answers"])]:
            words = re.findall(r"\w+", text.lower())
            mine |= {tuple(words[n : n + 7]) for n in range(len(words) - 6)}
        runs.append(mine)
    count = Counter(run for mine in runs for run in mine)
    shared = sum(n for n in count.values() if n > 1)
    assert shared <= 0.002 * count.total(), (
        f"{shared} of {count.total()} seven-word runs occur under more than one prompt: {count.most_common(3)}"
    )


def test_where_the_best_answer_stands_says_nothing(settings: AnnotatorSettings, corpus: list[dict[str, Any]]) -> None:
    found, expected = np.zeros(8), np.zeros(8)
    for entry in corpus:
        worth = utilities(settings, entry["answers"]).mean(0).round(9)
        best = worth == worth.max()
        found[: len(best)] += best / best.sum()
        expected[: len(best)] += 1 / len(best)
    there = expected > 0
    chi_squared = float((((found - expected) ** 2)[there] / expected[there]).sum())
    degrees = int(there.sum()) - 1
    assert chi_squared < degrees + 3.5 * np.sqrt(2 * degrees), f"best answers by position: {found}, expected {expected}"


def test_the_answer_that_stands_first_wins_half_of_the_time(pairs: list[CorpusPair]) -> None:
    by_prompt = defaultdict(list)
    for p in pairs:
        by_prompt[p.prompt].append(float(2 * p.clear > p.annotators))
    means = np.array([np.mean(wins) for wins in by_prompt.values()])
    error = means.std() / np.sqrt(len(means))
    assert abs(means.mean() - 0.5) < 3.5 * error, f"the earlier answer wins {means.mean():.3f} +- {error:.3f}"


def test_length_alone_is_near_chance(
    corpus: list[dict[str, Any]], split: tuple[list[CorpusPair], list[CorpusPair]]
) -> None:
    numbers = {}
    for name, part, clear in (("pool", split[0], False), ("benchmark", split[1], True)):
        rows = as_rows(part, corpus, clear=clear)
        for unit, size in (("words", lambda t: len(t.split())), ("characters", len)):
            gap = np.array([size(row["response_a"]) - size(row["response_b"]) for row in rows])
            sign = np.sign([row["label"] - 0.5 for row in rows]) * np.sign(gap)
            numbers[name, unit] = float(np.where(sign == 0, 0.5, sign > 0).mean())
    said = ", ".join(f"{name} {unit} {value:.3f}" for (name, unit), value in numbers.items())
    worst = max(max(value, 1 - value) for value in numbers.values())
    assert worst < 0.57, f"accuracy of 'the longer answer is better': {said}"


# The annotators.


def test_utilities_are_the_weighted_sums_of_the_settings(
    settings: AnnotatorSettings, corpus: list[dict[str, Any]]
) -> None:
    responses = corpus[0]["answers"]
    for row, order in enumerate(settings.annotators.values()):
        assert sorted(order) == sorted(ATTRIBUTES)
        for column, response in enumerate(responses):
            slow = sum(settings.first * settings.decay**rank * response[name] for rank, name in enumerate(order))
            assert utilities(settings, responses)[row, column] == pytest.approx(slow, abs=1e-12)


def test_noise_free_votes_are_exact_and_only_real_ties_are_tossed_for(
    settings: AnnotatorSettings, corpus: list[dict[str, Any]], pairs: list[CorpusPair]
) -> None:
    assert settings.decay == 0.5  # so that sums are whole multiples of the smallest weight
    rng = np.random.default_rng(settings.seed)
    given = iter(pairs)
    ties = 0
    for row, entry in enumerate(corpus):
        for a, b in itertools.combinations(range(len(entry["answers"])), 2):
            left, right = entry["answers"][a], entry["answers"][b]
            coins = rng.random(len(settings.annotators))
            votes = 0
            for order, coin in zip(settings.annotators.values(), coins, strict=True):
                gap = sum(2 ** (len(order) - 1 - rank) * (left[name] - right[name]) for rank, name in enumerate(order))
                ties += gap == 0
                votes += gap > 0 or (gap == 0 and coin < 0.5)
            p = next(given)
            assert (p.prompt, p.a, p.b, p.clear) == (row, a, b, votes)
    assert next(given, None) is None
    assert ties > 50


def test_noisy_votes_follow_the_logistic_of_the_gap(
    settings: AnnotatorSettings, corpus: list[dict[str, Any]], pairs: list[CorpusPair]
) -> None:
    expected, spread, found = [], [], []
    for p in pairs:
        value = utilities(settings, corpus[p.prompt]["answers"])
        chance = 1 / (1 + np.exp(-(value[:, p.a] - value[:, p.b]) / settings.noise))
        expected.append(chance.sum())
        spread.append((chance * (1 - chance)).sum())
        found.append(p.votes)
    lean = np.sign(np.array(expected) - len(settings.annotators) / 2)  # towards the expected winner, else signs cancel
    off = (lean * (np.array(found) - expected)).sum() / np.sqrt(np.sum(spread))
    assert abs(off) < 4, f"votes are {off:.1f} standard errors from their expectation"
    square = (np.square(np.array(found) - expected) / np.maximum(spread, 1e-12))[np.array(spread) > 0.2]
    assert 0.9 < square.mean() < 1.1


def test_pooled_labels_are_noisier_than_clear_ones_by_a_known_amount(
    corpus: list[dict[str, Any]], split: tuple[list[CorpusPair], list[CorpusPair]]
) -> None:
    pool, _ = split
    noisy = [row["label"] for row in as_rows(pool, corpus, clear=False)]
    clear = [row["label"] for row in as_rows(pool, corpus, clear=True)]
    share = float(np.mean(np.array(noisy) != clear))
    assert 0.005 < share < 0.15, f"{share:.3f} of the pool's labels are not the clear majority"


def test_cycles_counted_by_brute_force_are_the_cycles_counted(
    pairs: list[CorpusPair], settings: AnnotatorSettings
) -> None:
    beats: dict[int, set[tuple[int, int]]] = defaultdict(set)
    responses: dict[int, set[int]] = defaultdict(set)
    for p in pairs:
        beats[p.prompt].add((p.a, p.b) if p.clear >= 3 else (p.b, p.a))
        responses[p.prompt] |= {p.a, p.b}
    cyclic = triples = 0
    for prompt, wins in beats.items():
        for x, y, z in itertools.permutations(responses[prompt], 3):  # each triple six times, each cycle three
            triples += 1
            cyclic += {(x, y), (y, z), (z, x)} <= wins
    assert count_cycles(pairs, len(settings.annotators)) == (cyclic // 3, triples // 6)
    assert cyclic % 3 == triples % 6 == 0
    assert cyclic > 0, "majorities of these annotators never cycle: the corpus shows nothing a scalar cannot say"


def condorcet(settings: AnnotatorSettings) -> tuple[AnnotatorSettings, list[dict[str, Any]]]:
    """Three annotators who each care for one thing, three answers that rotate it: a cycle by construction."""
    three = settings.model_copy(
        update={"annotators": {name: [name] for name in ("correctness", "helpfulness", "tone")}, "noise": 1e-3}
    )
    levels = [(3, 2, 1), (1, 3, 2), (2, 1, 3)]
    responses = [
        dict.fromkeys(ATTRIBUTES, 0)
        | dict(zip(("correctness", "helpfulness", "tone"), level, strict=True))
        | {"text": f"answer {n}"}
        for n, level in enumerate(levels)
    ]
    return three, [{"prompt": "p", "section": "chat", "subset": "s", "answers": responses}]


def test_a_planted_cycle_is_found_and_an_order_is_none(settings: AnnotatorSettings) -> None:
    three, corpus = condorcet(settings)
    cycle = all_pairs(three, corpus)
    assert [(p.a, p.b, p.clear) for p in cycle] == [(0, 1, 1), (0, 2, 2), (1, 2, 1)]
    assert count_cycles(cycle, 3) == (1, 1)
    one = three.model_copy(update={"annotators": {"correctness": ["correctness"]}})
    assert count_cycles(all_pairs(one, corpus), 1) == (0, 1)
    assert count_cycles([], 3) == (0, 0)


@pytest.mark.parametrize(
    ("annotators", "votes", "label"), [(1, 1, 1), (3, 1, 0), (3, 2, 1), (5, 2, 0), (5, 3, 1), (7, 3, 0), (7, 4, 1)]
)
def test_a_majority_depends_on_how_many_vote(
    annotators: int, votes: int, label: float, corpus: list[dict[str, Any]]
) -> None:
    ours = CorpusPair(0, 0, 1, votes=votes, clear=annotators - votes, annotators=annotators)
    (row,) = as_rows([ours], corpus, clear=False)
    assert row["label"] == label
    assert as_rows([ours], corpus, clear=True)[0]["label"] == 1 - label
    assert row["response_a"] == corpus[0]["answers"][0]["text"]
    assert row["response_b"] == corpus[0]["answers"][1]["text"]
    assert (row["prompt"], row["section"], row["subset"]) == tuple(
        corpus[0][k] for k in ("prompt", "section", "subset")
    )


# Pool and benchmark.


def test_pool_and_benchmark_share_no_prompt_and_repeat_no_pair(
    split: tuple[list[CorpusPair], list[CorpusPair]],
) -> None:
    pool, benchmark = split
    assert not {p.prompt for p in pool} & {p.prompt for p in benchmark}
    for part in split:
        keys = Counter((p.prompt, p.a, p.b) for p in part)
        assert max(keys.values()) == 1
    assert len(pool) > 1000
    assert len(benchmark) >= 300


def test_the_benchmark_is_balanced_and_its_labels_are_clear(
    settings: AnnotatorSettings, corpus: list[dict[str, Any]], split: tuple[list[CorpusPair], list[CorpusPair]]
) -> None:
    _, benchmark = split
    prompts = Counter(corpus[row]["section"] for row in {p.prompt for p in benchmark})
    assert prompts == dict.fromkeys(SECTIONS, settings.benchmark.prompts_per_section)
    sizes = Counter(corpus[p.prompt]["section"] for p in benchmark)
    assert max(sizes.values()) <= 1.05 * min(sizes.values()), sizes
    assert max(Counter(p.prompt for p in benchmark).values()) <= settings.benchmark.pairs_per_prompt
    assert all(max(p.clear, p.annotators - p.clear) >= settings.benchmark.agree for p in benchmark)


def test_the_pool_is_skewed_to_chat_and_to_easy_pairs(
    corpus: list[dict[str, Any]], pairs: list[CorpusPair], split: tuple[list[CorpusPair], list[CorpusPair]]
) -> None:
    pool, benchmark = split

    def chat(part: Sequence[CorpusPair]) -> float:
        return float(np.mean([corpus[p.prompt]["section"] == "chat" for p in part]))

    def easy(part: Sequence[CorpusPair]) -> float:
        return float(np.mean([p.clear in (0, p.annotators) for p in part]))

    assert chat(pool) > 1.3 * chat(pairs), f"chat is {chat(pool):.3f} of the pool and {chat(pairs):.3f} of the corpus"
    assert easy(pool) > easy(pairs) + 0.04, (
        f"easy pairs are {easy(pool):.3f} of the pool and {easy(pairs):.3f} of the corpus"
    )
    assert chat(benchmark) == pytest.approx(0.25, abs=0.02)


def test_reading_and_splitting_twice_gives_the_same_pairs(split: tuple[list[CorpusPair], list[CorpusPair]]) -> None:
    again = split_corpus(read_annotators(FOLDER), read_corpus(FOLDER))
    assert again == split


def test_another_seed_gives_another_split(
    settings: AnnotatorSettings, corpus: list[dict[str, Any]], split: tuple[list[CorpusPair], list[CorpusPair]]
) -> None:
    other = split_corpus(settings.model_copy(update={"seed": settings.seed + 1}), corpus)
    assert {p.prompt for p in other[1]} != {p.prompt for p in split[1]}


# What cannot be used.


def entry(**changes: Any) -> dict[str, Any]:
    responses = [{"text": f"t{n}", **dict.fromkeys(ATTRIBUTES, n)} for n in range(3)]
    return {"prompt": "p", "section": "chat", "subset": "s", "answers": responses, **changes}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        json.dumps(entry(answers=[{"text": "t"}])),
        json.dumps(entry(answers=[{"text": "t", **dict.fromkeys(ATTRIBUTES, 4)}])),
        json.dumps(entry(answers=[{"text": "t", **dict.fromkeys(ATTRIBUTES, 1.5)}])),
        json.dumps(entry(answers=[{"text": "t", **{key: [] for key in ATTRIBUTES}}])),
        json.dumps(entry(answers=[dict.fromkeys(ATTRIBUTES, 1)])),
        json.dumps(entry(answers=[{"text": None, **dict.fromkeys(ATTRIBUTES, 1)}])),
        json.dumps({k: v for k, v in entry().items() if k != "section"}),
    ],
)
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, line: str) -> None:
    good = json.dumps(entry())
    (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "a.jsonl")) + r":2\b"):
        read_corpus(tmp_path)


def test_a_separator_inside_a_text_does_not_break_its_line(tmp_path: Path) -> None:
    text = json.dumps(entry(prompt="one\u2028two\x85three"), ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"{text}\n", encoding="utf-8")
    assert read_corpus(tmp_path)[0]["prompt"] == "one\u2028two\x85three"


def test_an_empty_folder_and_a_small_section_are_refused(tmp_path: Path, settings: AnnotatorSettings) -> None:
    with pytest.raises(DataError, match=r"no \*\.jsonl with prompts"):
        read_corpus(tmp_path)
    take = settings.benchmark.prompts_per_section
    with pytest.raises(DataError, match=f"section 'chat' has {take} prompts, the benchmark alone takes {take}"):
        split_corpus(settings, [entry() for _ in range(take)])
    with pytest.raises(DataError, match="no share for section law"):
        split_corpus(settings, [entry(section="law") for _ in range(take + 1)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"annotators": {"a": ["correctness"], "b": ["tone"]}},
            "annotators: .*expected an odd number of annotators.*got 2",
        ),
        ({"annotators": {}}, "expected an odd number of annotators.*got 0"),
        (
            {"annotators": {"a": ["corectness"]}},
            r"annotators\.a\.0: Input should be 'correctness', 'helpfulness'.*got 'corectness'",
        ),
        ({"noise": 0.0}, "noise: Input should be greater than 0, got 0.0"),
        ({"nois": 0.1}, "nois: unknown key; known here: annotators, first"),
    ],
)
def test_a_wrong_setting_of_the_annotators_is_named_with_its_file(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    raw = yaml.safe_load((FOLDER / "annotators.yaml").read_text(encoding="utf-8"))
    (tmp_path / "annotators.yaml").write_text(yaml.safe_dump(raw | change), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        read_annotators(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'annotators.yaml'}: ")


def test_annotators_that_are_not_there_or_not_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotators\.yaml: cannot be read"):
        read_annotators(tmp_path)
    for raw in (b"a: [", b"\xff"):
        (tmp_path / "annotators.yaml").write_bytes(raw)
        with pytest.raises(DataError, match=r"annotators\.yaml: cannot be read"):
            read_annotators(tmp_path)


def test_pairs_of_the_corpus_are_facts_that_cannot_change(pairs: list[CorpusPair]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        pairs[0].votes = 0  # type: ignore[misc]
