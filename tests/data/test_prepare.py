"""Cleaning, splitting and the tables: what is dropped is counted, what is kept is where it belongs."""

from __future__ import annotations

import itertools
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bgpm.data.dedup import last_turn_fingerprint, normalise
from bgpm.data.prepare import Prepared, prepare
from bgpm.data.schema import BenchmarkSettings, PoolSettings
from bgpm.data.tables import as_pairs, read_table, write_table
from bgpm.errors import DataError, MissingLabelError

Run = Callable[..., Prepared]
Make = Callable[..., list[dict[str, Any]]]


def facts(prepared: Prepared, split: str | None = None) -> dict[str, tuple[Any, ...]]:
    """Prompt, first and second text, label and margin (None when unknown) by pair id."""
    tables = prepared.benchmark if split == "benchmark" else prepared.pool
    truth = {
        pair_id: tuple(None if np.isnan(value) else float(value) for value in (label, margin))
        for labels in prepared.truth.values()
        for pair_id, label, margin in zip(labels["pair_id"], labels["label"], labels["margin"], strict=True)
    }
    pairs, texts = tables["pairs"], tables["responses"]["text"]
    prompts = tables["prompts"]["text"][pairs["prompt"]]
    rows = zip(
        pairs["pair_id"], prompts, texts[pairs["response_a"]], texts[pairs["response_b"]], pairs["split"], strict=True
    )
    return {n: (p, a, b, *truth[n]) for n, p, a, b, s in rows if split in (None, s)}


def dumped(prepared: Prepared) -> str:
    tables = {"pool": prepared.pool, "benchmark": prepared.benchmark, "truth": prepared.truth}
    return json.dumps(tables, default=lambda v: v.tolist())


def test_labels_follow_the_answers_when_the_order_is_shuffled(run: Run, pool_records: Make) -> None:
    found = facts(run(pool_records()))
    assert len(found) == 180
    for prompt, response_a, response_b, label, _ in found.values():
        q = prompt.split()[1].rstrip("?")
        assert f" to {q}" in response_a
        assert f" to {q}" in response_b
        assert label == float(response_a.split()[1] > response_b.split()[1])


def test_either_answer_is_first_in_half_of_the_pairs(run: Run, pool_records: Make, benchmark_records: Make) -> None:
    found = run(pool_records(600), benchmark_records(900))
    for split in ("pool", "heldout", "benchmark"):
        label = found.truth[split]["label"]
        # Five standard errors of a fair coin.
        assert abs(label.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(label)), split


def test_another_seed_shuffles_and_splits_anew(run: Run, pool_records: Make) -> None:
    one, other = run(pool_records(400), seed=0), run(pool_records(400), seed=1)
    response_a, response_b = facts(one), facts(other)
    turned = np.mean([n not in response_b for n in response_a])
    assert 0.42 < turned < 0.58
    assert all(response_a[n][1:3] == response_b[n][1:3] for n in set(response_a) & set(response_b)), (
        "a name stands for one order"
    )
    moved = np.mean(np.array(split_by_prompt(one)) != np.array(split_by_prompt(other)))
    assert 0.27 < moved < 0.48  # 2 x 0.25 x 0.75 expected


def test_the_name_of_a_pair_does_not_give_its_label_away(run: Run) -> None:
    rows = [{"id": n, "prompt": f"p{n}", "chosen": f"good {n * 7919}", "rejected": f"bad {n}"} for n in range(400)]
    rows = [r if n % 2 else r | {"chosen": f"all {n}", "rejected": f"zero {n}"} for n, r in enumerate(rows)]
    found = facts(run(rows))
    up = np.array([name.endswith(":up") for name in found])
    first_wins = np.array([label == 1 for *_, label, _ in found.values()])
    assert up.any()
    assert abs((up == first_wins).mean() - 0.5) < 5 * 0.5 / np.sqrt(len(up))


def test_an_id_that_a_new_file_gives_to_another_pair_names_another_pair(run: Run, pool_records: Make) -> None:
    rows = [row | {"id": n} for n, row in enumerate(pool_records())]
    moved = [row | {"id": n} for n, row in enumerate([{**rows[-1], "prompt": "a new one"}, *rows[:-1]])]
    edited = [{**rows[0], "response_a": "a new text"}, *rows[1:]]
    before = facts(run(rows))
    assert not set(before) & set(facts(run(moved)))
    assert len(set(before) - set(facts(run(edited)))) == 1


def split_by_prompt(prepared: Prepared) -> list[str]:
    prompts = prepared.pool["prompts"]
    return [split for _, split in sorted(zip(prompts["text"], prompts["split"], strict=True))]


def test_shuffling_the_rows_of_the_file_changes_nothing(run: Run, pool_records: Make, benchmark_records: Make) -> None:
    pool, benchmark = pool_records(), benchmark_records(20)
    pool += [{**r, "id": f"copy of {r['id']}", "label": 0.5} for r in pool[:9]]
    pool += [{**r, "id": f"third {r['id']}", "label": 1.0, "prompt": r["prompt"].upper()} for r in pool[:5]]
    before = dumped(run(pool, benchmark))
    for seed in range(3):
        mix = random.Random(seed)
        assert dumped(run(mix.sample(pool, len(pool)), mix.sample(benchmark, len(benchmark)))) == before


def test_adding_rows_moves_no_other_prompt_and_turns_no_other_pair(run: Run, pool_records: Make) -> None:
    few, many = run(pool_records(60)), run(pool_records(90))
    for split in ("pool", "heldout"):
        assert facts(few, split).items() <= facts(many, split).items()


def test_splits_share_no_prompt_however_it_is_spelt(run: Run, pool_records: Make) -> None:
    pool = pool_records(80)
    pool += [
        {**r, "prompt": f"  {r['prompt'].upper()} ", "response_a": r["response_a"] + " more", "id": None} for r in pool
    ]
    prompts = run(pool).pool["prompts"]
    by_split = {s: {normalise(t) for t in prompts["text"][prompts["split"] == s]} for s in ("pool", "heldout")}
    assert len(prompts["text"]) == 160
    assert by_split["pool"]
    assert by_split["heldout"]
    assert not by_split["pool"] & by_split["heldout"]


def test_the_heldout_share_is_met_over_many_prompts(run: Run, pool_records: Make) -> None:
    split = run(pool_records(1500), heldout=0.3).pool["prompts"]["split"]
    assert abs((split == "heldout").mean() - 0.3) < 4 * np.sqrt(0.21 / 1500)


def test_each_text_is_one_row_and_rows_fit_together(run: Run, pool_records: Make) -> None:
    tables = run(pool_records()).pool
    responses, pairs = tables["responses"], as_pairs(tables["pairs"])
    assert len(responses["text"]) == 60 * 3
    assert len(set(zip(responses["prompt"], responses["text"], strict=True))) == 180
    for side in (pairs.response_a, pairs.response_b):
        assert (responses["prompt"][side] == pairs.prompt).all()
    assert (tables["prompts"]["split"][pairs.prompt] == tables["pairs"]["split"]).all()
    assert len(set(tables["pairs"]["key"])) == len(pairs)


def test_tables_come_back_from_disk_as_they_were(tmp_path: Path, run: Run, pool_records: Make) -> None:
    prepared = run(pool_records())
    for table in (*prepared.pool.values(), *prepared.benchmark.values(), *prepared.truth.values()):
        write_table(tmp_path / "t.parquet", table)
        back = read_table(tmp_path / "t.parquet")
        assert all(np.array_equal(back[k], table[k], equal_nan=table[k].dtype == float) for k in table)
        assert back.keys() == table.keys()


def test_a_pair_without_an_id_is_named_by_its_texts_and_their_order(run: Run) -> None:
    rows = [{"prompt": f"q{n}", "response_a": "x", "response_b": "y", "label": 1} for n in range(40)]
    turned = [{**r, "response_a": "y", "response_b": "x", "label": 0} for r in rows]
    assert facts(run(rows)) == facts(run(turned))
    assert not set(facts(run(rows))) <= set(facts(run(rows, seed=3)))


def test_multi_turn_prompts_keep_their_messages(run: Run, pool_records: Make) -> None:
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello é"},
        {"role": "user", "content": "Why?"},
    ]
    rows = [{"prompt": talk, "chosen": "because", "rejected": "no idea"}]
    prompts = run([*pool_records(), *rows]).pool["prompts"]
    (row,) = np.flatnonzero(prompts["text"] == "Human: Hi\n\nAssistant: Hello é\n\nHuman: Why?")
    assert json.loads(prompts["messages"][row]) == talk


# --- duplicates ---


def pair(prompt: str, a: str, b: str, label: float | None, **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response_a": a, "response_b": b, "label": label, **more}


def labels_of(prepared: Prepared, prompt: str) -> list[tuple[str, float, float | None]]:
    """Better-or-equal text first, its label and margin, of every pair of a prompt."""
    found = [f for f in facts(prepared).values() if f[0] == prompt]
    return [(a, label, margin) if label >= 0.5 else (b, 1 - label, margin) for _, a, b, label, margin in found]


def test_duplicates_in_either_order_are_one_pair(run: Run, pool_records: Make) -> None:
    copies = [pair("Q", "x", "y", 1, margin=1), pair("Q", "y", "x", 0, margin=3), pair(" q ", "X", "Y", 1)]
    prepared = run([*pool_records(), *copies])
    assert prepared.summary["dropped"]["duplicate"]["count"] == 2
    assert prepared.summary["contradicting labels"]["count"] == 0
    (found,) = [f for f in facts(prepared).values() if normalise(f[0]) == "q"]
    assert {found[1].lower(), found[2].lower()} == {"x", "y"}
    assert found[3] == float(found[1].lower() == "x")
    assert found[4] == 2.0


def test_contradicting_duplicates_become_their_mean(run: Run, pool_records: Make) -> None:
    copies = [
        pair("Q", "x", "y", 1, margin=2),
        pair("Q", "y", "x", 0),
        pair("Q", "x", "y", 0),
        pair("Q", "x", "y", None),
    ]
    prepared = run([*pool_records(), *copies])
    ((text, label, margin),) = labels_of(prepared, "Q")
    assert (text, label) == ("x", pytest.approx(2 / 3))
    assert margin is None
    assert prepared.summary["contradicting labels"]["count"] == 1
    assert prepared.summary["dropped"]["duplicate"]["count"] == 3


def test_a_label_is_not_lost_to_an_unlabelled_duplicate(run: Run, pool_records: Make) -> None:
    assert labels_of(run([*pool_records(), pair("Q", "x", "y", None), pair("Q", "x", "y", 1)]), "Q")[0][:2] == (
        "x",
        1.0,
    )


def test_answers_that_differ_in_white_space_alone_are_kept_apart(run: Run, pool_records: Make) -> None:
    code = [
        pair("Q", "if x:\n  y()\nz()", "if x:\n  y()\n  z()", 1),
        pair("Q", "if x:\n  y()\n  z()", "if x:\n  y()\nz()", 0),
    ]
    prepared = run([*pool_records(), *code])
    assert labels_of(prepared, "Q") == [("if x:\n  y()\nz()", 1.0, None)]
    assert {reason: d["count"] for reason, d in prepared.summary["dropped"].items()} == {"duplicate": 1}


def test_merging_agrees_with_comparing_every_row_to_every_row(run: Run) -> None:
    mix = random.Random(5)
    rows = [
        pair(
            f"Q{mix.randrange(25)}",
            *(mix.choice([text, text.upper(), f" {text}"]) for text in mix.sample("abcd", 2)),
            mix.choice([0, 1]),
        )
        for _ in range(300)
    ]
    groups: list[list[dict[str, Any]]] = []
    for row in rows:
        for group in groups:
            other = group[0]
            if row["prompt"] == other["prompt"] and {row[k].strip().lower() for k in ("response_a", "response_b")} == {
                other[k].strip().lower() for k in ("response_a", "response_b")
            }:
                group.append(row)
                break
        else:
            groups.append([row])
    expected = {}
    for group in groups:
        low = min(group[0][k].strip().lower() for k in ("response_a", "response_b"))
        high = max(group[0][k].strip().lower() for k in ("response_a", "response_b"))
        votes = [r["label"] if r["response_a"].strip().lower() == low else 1 - r["label"] for r in group]
        expected[group[0]["prompt"], low, high] = pytest.approx(np.mean(votes))
    found = {}
    for prompt, response_a, response_b, label, _ in facts(run(rows)).values():
        response_a, response_b = response_a.strip().lower(), response_b.strip().lower()
        found[prompt, min(response_a, response_b), max(response_a, response_b)] = (
            label if response_a < response_b else 1 - label
        )
    assert found == expected


def test_identical_answers_are_dropped_counted_and_named(
    run: Run, pool_records: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "bgpm"):
        prepared = run([*(pair("Q", "x", "x", 1) for _ in range(5)), *pool_records()])
    assert prepared.summary["dropped"]["identical responses"]["count"] == 5
    assert [e.rsplit(":")[-1] for e in prepared.summary["dropped"]["identical responses"]["examples"]] == [
        "1",
        "2",
        "3",
    ]
    assert "pool: identical responses: 5, first at" in caplog.text
    assert len(facts(prepared)) == 180


def test_the_limit_is_a_sample_that_a_smaller_limit_is_part_of(run: Run, pool_records: Make) -> None:
    large, small = facts(run(pool_records(), limit=90)), facts(run(pool_records(), limit=40))
    assert (len(large), len(small)) == (90, 40)
    assert small.items() <= large.items()
    assert len({f[0] for f in large.values()}) > 30
    assert run(pool_records(), limit=90).summary["dropped"]["over the limit"]["count"] == 90


# --- benchmark ---


def test_benchmark_prompts_leave_the_pool_and_are_counted(run: Run, pool_records: Make) -> None:
    whole = [{"prompt": "QUESTION 3? in two  lines, with a comma.", "chosen": "a", "rejected": "b", "subset": "s"}]
    clean, prepared = run(pool_records()), run(pool_records(), whole)
    assert sum(prepared.summary["decontaminated"].values()) == 3
    assert prepared.summary["dropped"]["benchmark prompt"]["count"] == 3
    gone = set(facts(clean)) - set(facts(prepared))
    assert {name.split(":")[0] for name in gone} == {"q3-01", "q3-21", "q3-02"}


@pytest.mark.parametrize(
    "prompt",
    [
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Benchmark 1"},
        ],
        "Human: Hi\n\nAssistant: Hello\n\nHuman: benchmark 1",
        "Human: Benchmark 1",
        "Benchmark １",
    ],
)
def test_a_benchmark_prompt_is_found_as_the_last_turn_and_in_another_width(
    prompt: Any, run: Run, pool_records: Make
) -> None:
    prepared = run([*pool_records(), {"prompt": prompt, "chosen": "a", "rejected": "b"}])
    assert prepared.summary["dropped"]["benchmark prompt"]["count"] == 1


def test_a_prompt_that_only_quotes_a_benchmark_prompt_stays(run: Run, pool_records: Make) -> None:
    prepared = run([*pool_records(), pair("Benchmark 1, they said. Why?", "a", "b", 1)])
    assert prepared.summary["decontaminated"] == {"heldout": 0, "pool": 0}
    assert last_turn_fingerprint((("user", "The word Human: stands here"),)) != last_turn_fingerprint(
        (("user", "stands here"),)
    )


def test_rewardbench_subsets_know_their_sections_and_others_are_counted(run: Run, pool_records: Make) -> None:
    rows = [
        {"prompt": f"b{n}", "chosen": "x", "rejected": "y", "subset": subset, "id": 0}
        for n, subset in enumerate(["hep-rust", "donotanswer", "llmbar-adver-GPTInst", "mt-bench-med", "mine"])
    ]
    prepared = run(pool_records(), rows)
    pairs = prepared.benchmark["pairs"]
    assert dict(zip(pairs["subset"], pairs["section"], strict=True)) == {
        "hep-rust": "reasoning",
        "donotanswer": "safety",
        "llmbar-adver-GPTInst": "chat-hard",
        "mt-bench-med": "chat",
        "mine": "mine",
    }
    assert prepared.benchmark_summary["unpublished subsets"] == {"mine": 1}
    assert set(pairs["pair_id"]) == {f"{s}/0" for s in pairs["subset"]}


def test_a_benchmark_pair_with_its_own_id_is_never_merged(run: Run, pool_records: Make) -> None:
    row = {"prompt": "b", "chosen": "x", "rejected": "y", "subset": "s"}
    assert (
        len(facts(run(pool_records(), [{**row, "id": 1}, {**row, "id": 2}, {**row, "prompt": "c"}]), "benchmark")) == 3
    )
    assert len(facts(run(pool_records(), [row, row, {**row, "subset": "t"}]), "benchmark")) == 2


@pytest.mark.parametrize(
    ("row", "error", "complaint"),
    [
        ({"prompt": "b", "chosen": "x", "rejected": "y"}, DataError, r"benchmark\.jsonl:2: .*column subset"),
        (pair("b", "x", "y", None, subset="s"), MissingLabelError, r"benchmark\.jsonl:2: .*needs a label"),
        (
            pair("b", "x", "y", 1, subset="s0", id=0),
            DataError,
            r"benchmark\.jsonl:2: id 's0/0' is also .*benchmark\.jsonl:1",
        ),
    ],
)
def test_a_bad_benchmark_row_is_an_error(
    row: dict[str, Any], error: type[Exception], complaint: str, run: Run, pool_records: Make, benchmark_records: Make
) -> None:
    with pytest.raises(error, match=complaint):
        run(pool_records(), [benchmark_records()[0], row])


def test_ties_of_a_benchmark_are_dropped_and_an_empty_benchmark_is_an_error(run: Run, pool_records: Make) -> None:
    rows = [pair("b", "x", "y", 0.5, subset="s"), pair("c", "x", "y", 1, subset="s")]
    assert run(pool_records(), rows).benchmark_summary["dropped"]["tie"]["count"] == 1
    with pytest.raises(DataError, match="no benchmark pair is left"):
        run(pool_records(), rows[:1])
    with pytest.raises(DataError, match="the benchmark is empty"):
        run(pool_records(), [])


# --- bad pools ---


def test_an_empty_or_tiny_pool_is_an_error(run: Run, pool_records: Make) -> None:
    with pytest.raises(DataError, match="the pool has no pair, or none is left"):
        run([])
    with pytest.raises(DataError, match="what was dropped, and why, stands above"):
        run([pair("Q", "x", "x", 1)])
    with pytest.raises(
        DataError, match=r"no prompt is in split '(pool|heldout)': the pool is too small \(3 pairs, 1 prompts"
    ):
        run(pool_records(1))


def test_an_id_of_two_pairs_is_an_error_and_of_a_repeated_row_is_not(run: Run, pool_records: Make) -> None:
    pool = pool_records()
    with pytest.raises(
        DataError, match=r"pool\.jsonl:181: id 'q0-01' is also the id of another pair, at .*pool\.jsonl:1;"
    ):
        run([*pool, {**pool[7], "id": "q0-01"}])
    assert run([*pool, pool[0]]).summary["dropped"]["duplicate"]["count"] == 1


def test_labels_are_optional_and_how_many_held_out_pairs_lack_one_is_said(
    run: Run, pool_records: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bare = run([{**r, "label": None} for r in pool_records()])
    heldout = bare.truth["heldout"]
    assert np.isnan(heldout["label"]).all()
    count = len(heldout["label"])
    assert f"pool.jsonl: {count} of {count} held-out pairs have no label and are not evaluated on" in caplog.text
    assert "`bgpm annotate --heldout`" in caplog.text
    caplog.clear()
    named = [
        {**r, "split": "heldout" if n < 30 else "pool", "label": 1 if n < 30 else None}
        for n, r in enumerate(pool_records())
    ]
    prepared = run(named)
    assert {s: v["labelled"] for s, v in prepared.summary["splits"].items()} == {"pool": 0.0, "heldout": 1.0}
    assert np.isnan(prepared.truth["pool"]["label"]).all()
    assert len(prepared.truth["heldout"]["label"]) == 30
    assert "held-out pairs have no label" not in caplog.text


def test_what_people_said_of_held_out_pairs_stands_where_nothing_is_recorded(
    tmp_path: Path, pool_records: Make, benchmark_records: Make, save: Callable[..., Path]
) -> None:
    rows = [{**r, "label": None if n % 2 else r["label"]} for n, r in enumerate(pool_records())]
    settings = (
        PoolSettings(path=str(save(tmp_path / "pool.jsonl", rows)), heldout=0.3),
        BenchmarkSettings(path=str(save(tmp_path / "bench.jsonl", benchmark_records()))),
    )
    before = prepare(*settings).truth
    answered = dict.fromkeys([*before["heldout"]["pair_id"], *before["pool"]["pair_id"]], 0.25)
    after = prepare(*settings, answered).truth
    bare = np.isnan(before["heldout"]["label"])
    assert 0 < bare.sum() < len(bare)
    np.testing.assert_array_equal(after["heldout"]["label"], np.where(bare, 0.25, before["heldout"]["label"]))
    np.testing.assert_array_equal(after["pool"]["label"], before["pool"]["label"])


@pytest.mark.parametrize(
    ("bare", "complaint"),
    [
        ((40, 77), r"pool\.jsonl:41: no label, like 2 of 150 pairs of the pool, and oracle=recorded"),
        (tuple(range(30)), r"pool\.jsonl:1: no label, like every held-out pair"),
    ],
)
def test_a_recorded_oracle_misses_its_labels_before_any_work(
    bare: tuple[int, ...],
    complaint: str,
    tmp_path: Path,
    pool_records: Make,
    benchmark_records: Make,
    save: Callable[..., Path],
) -> None:
    rows = [
        {**r, "split": "heldout" if n < 30 else "pool", "label": None if n in bare else r["label"]}
        for n, r in enumerate(pool_records())
    ]
    settings = (
        PoolSettings(path=str(save(tmp_path / "pool.jsonl", rows)), heldout=0.3),
        BenchmarkSettings(path=str(save(tmp_path / "benchmark.jsonl", benchmark_records()))),
    )
    with pytest.raises(MissingLabelError, match=complaint):
        prepare(*settings, recorded=True)
    prepare(*settings)  # another oracle needs none
    if 0 in bare:
        prepare(*settings, {"of a held-out pair": 1.0}, recorded=True)


def test_a_heldout_prompt_inside_the_pool_is_an_error(run: Run, pool_records: Make) -> None:
    pool = pool_records()
    pool[0]["split"], pool[2]["split"] = "heldout", "pool"
    pool[2]["prompt"] = pool[2]["prompt"].upper()
    with pytest.raises(
        DataError, match=r"pool\.jsonl:3: .*in split 'pool', and at .*pool\.jsonl:1 in 'heldout'.*QUESTION 0"
    ):
        run(pool)


def test_the_summary_counts_what_a_person_counts(run: Run, pool_records: Make) -> None:
    pool = pool_records()
    pool[0]["label"] = 0.5
    prepared = run(pool)
    summary = prepared.summary
    assert summary["rows"] == 180
    for name, split in summary["splits"].items():
        found = facts(prepared, name)
        assert split["pairs"] == len(found)
        assert split["prompts"] == len({f[0] for f in found.values()})
        assert split["responses"] == len({(f[0], text) for f in found.values() for text in f[1:3]})
        assert split["ties"] == sum(f[3] == 0.5 for f in found.values())
        assert sum(split["sections"].values()) == len(found)
        assert set(split["sections"]) == {"odd", "even"}
    assert sum(split["ties"] for split in summary["splits"].values()) == 1


# --- the shipped corpus ---


def test_cycles_are_counted_like_by_hand() -> None:
    from bgpm.data.corpus import CorpusPair, count_cycles

    mix = np.random.default_rng(3)
    pairs = [
        CorpusPair(q, a, b, 0, int(mix.integers(6)), 5)
        for q in range(8)
        for a, b in itertools.combinations(range(5), 2)
    ]
    wins = {(p.prompt, *((p.a, p.b) if p.clear >= 3 else (p.b, p.a))) for p in pairs}
    by_hand = sum(
        {(q, x, y), (q, y, z), (q, z, x)} <= wins
        for q in range(8)
        for x, y, z in itertools.permutations(range(5), 3)
        if x == min(x, y, z)
    )
    assert by_hand > 0
    assert count_cycles(pairs, 5) == (by_hand, 80)


def test_the_shipped_corpus_is_prepared_without_loss(run: Run) -> None:
    folder = Path(__file__).parents[2] / "data" / "corpus"
    prepared = run(folder, folder, heldout=0.2)
    assert prepared.summary["dropped"] == {}
    assert prepared.benchmark_summary["dropped"] == {}
    assert sum(s["pairs"] for s in prepared.summary["splits"].values()) == prepared.summary["rows"]
    texts = {normalise(t) for t in prepared.pool["prompts"]["text"]}
    assert not texts & {normalise(t) for t in prepared.benchmark["prompts"]["text"]}
    assert set(prepared.benchmark["pairs"]["section"]) == {"chat", "chat-hard", "safety", "reasoning"}
    assert prepared.summary["cycles"]["triples"] > 1000


# --- the stage ---


def test_the_stage_writes_what_other_stages_read_and_the_same_bytes_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Callable[..., Path],
    pool_records: Make,
    benchmark_records: Make,
) -> None:
    import stages.prepare

    save(tmp_path / "pool.csv.gz", pool_records())
    save(tmp_path / "bench.parquet", benchmark_records())
    (tmp_path / "params.yaml").write_text(
        "pool: {path: pool.csv.gz, heldout: 0.25}\nbenchmark: {path: bench.parquet}\n"
        "oracle: recorded\noracles: {human: {}}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    written = []
    for _ in range(2):
        stages.prepare.main()
        written.append({str(p): p.read_bytes() for p in sorted(Path("data").rglob("*")) if p.is_file()})
    assert written[0] == written[1]
    tables = [
        f"data/{which}/{name}.parquet" for which in ("benchmark", "pool") for name in ("pairs", "prompts", "responses")
    ]
    tables += ["data/columns/benchmark.parquet", "data/columns/pool.parquet"]
    summaries = ["data/truth/summary.json"]
    truth = [f"data/truth/{split}.parquet" for split in ("benchmark", "heldout", "pool")]
    assert set(written[0]) == {*tables, *summaries, *truth}
    for path in tables:  # labels are nowhere but in data/truth
        assert not {"label", "margin", "chosen"} & set(read_table(Path(path)))
