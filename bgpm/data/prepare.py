"""From the rows of a pool and a benchmark to the tables that stages exchange.

Read, drop what cannot teach (identical responses, duplicates), take the benchmark's prompts out of the
pool, split by prompt, shuffle A/B order, and keep the labels in tables of their own. Every dropped row
is counted by reason; every error is raised before anything is written.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from bgpm.data.benchmarks import read_benchmark
from bgpm.data.corpus import all_pairs, count_cycles, read_annotators, read_corpus
from bgpm.data.dedup import (
    Tally,
    benchmark_prompts,
    digest,
    drop_identical,
    has_long_marks,
    in_benchmark,
    merge_duplicates,
    pair_key,
    prompt_fingerprint,
)
from bgpm.data.pair_columns import pair_columns_table, refuse_label_copies
from bgpm.data.readers import Reading, is_corpus, read_rows
from bgpm.data.response_columns import columns_table, counts, refuse_labels_in_disguise
from bgpm.data.schema import BenchmarkSettings, PoolSettings, Row, as_json, as_text
from bgpm.data.splits import split_prompts, swap, uniform
from bgpm.data.subsets import KNOWN, section_of
from bgpm.data.tables import Table
from bgpm.errors import DataError, MissingLabelError

log = logging.getLogger("bgpm")


@dataclass(frozen=True)
class Prepared:
    """What the stage writes.

    Attributes:
        pool, benchmark: Tables ``prompts``, ``responses`` and ``pairs`` of `bgpm.data.tables`; pairs have
            one more column, ``key``: a name of the pair that does not depend on the order of its responses. A benchmark
            whose items are scored whole has a table ``items`` too.
        columns: Numbers of responses, of `bgpm.data.response_columns`, of the pool and the benchmark, and of their
            pairs under ``pool-pairs`` and ``benchmark-pairs``, of `bgpm.data.pair_columns`.
        truth: Labels by split (``pool``, ``heldout``, ``benchmark``): pair_id, label, margin.
        summary, benchmark_summary: Counts, for summary.json beside the tables.
    """

    pool: dict[str, Table]
    benchmark: dict[str, Table]
    columns: dict[str, Table]
    truth: dict[str, Table]
    summary: dict[str, Any]
    benchmark_summary: dict[str, Any]


def prepare(
    pool: PoolSettings,
    benchmark: BenchmarkSettings | None,
    answered: Mapping[str, float] = MappingProxyType({}),
    *,
    recorded: bool = False,
) -> Prepared:
    """Read, check, clean and split; nothing is written.

    Args:
        pool, benchmark: What to read. Without a benchmark, or with one of kind none, no prompt is taken out
            for it, and its tables are empty.
        answered: Labels that people gave to held-out pairs, by pair_id: they stand where none is recorded.
        recorded: Labels will be acquired from the pool's file, so that each of its pairs needs one.

    Raises:
        DataError: Naming file, line and what to do, for input that cannot be used.
        ConfigError: If a column of responses made the labels.
        MissingLabelError: If a benchmark pair has no label; where the oracle is ``recorded``, if a pair of the pool
            has none, or all held-out pairs.
    """
    if benchmark and benchmark.kind == "none":
        benchmark = None
    bench_rows, bench_summary = _benchmark_rows(benchmark) if benchmark else ([], {})
    reading = Reading(pool)
    rows = read_rows(pool, reading)
    noted = _noted("pool", reading, rows)
    summary: dict[str, Any] = {"rows": len(rows)}
    _check_ids(rows)
    told = rows
    refuse_labels_in_disguise(rows, list(pool.response_columns))
    refuse_label_copies(rows, list(pool.pair_columns))
    split = split_prompts(rows, pool.heldout, pool.seed)
    dropped = {reason: Tally() for reason in ("identical responses", "duplicate", "benchmark prompt", "over the limit")}
    contradicting = Tally()
    rows = merge_duplicates(drop_identical(rows, dropped["identical responses"]), dropped["duplicate"], contradicting)
    rows, leaked = _decontaminate(rows, split, benchmark_prompts(bench_rows), dropped["benchmark prompt"])
    rows = _sample(rows, pool, dropped["over the limit"])
    splits = [split[prompt_fingerprint(row.prompt)] for row in rows]
    _warn("pool", dropped | {"contradicting labels": contradicting})
    _check_pool(rows, splits, pool)
    if recorded:
        _check_recorded(rows, splits, bool(answered))
    tables, truth = _tables(rows, splits, pool.seed)
    if "heldout" in truth:
        _fill(truth["heldout"], answered, _source(pool))
    summary |= (
        _describe(tables["pairs"], truth)
        | {
            "dropped": _counts(dropped),
            "contradicting labels": asdict(contradicting),
            "decontaminated": leaked,
        }
        | noted
    )
    if is_corpus(pool):
        summary["cycles"] = _cycles(Path(pool.path))
    if bench_rows:
        bench_tables, bench_truth = _benchmark_tables(bench_rows, pool.seed)
        bench_summary |= _describe(bench_tables["pairs"], bench_truth)
    else:
        bench_tables = {name: _none_of(tables[name]) for name in ("prompts", "responses", "pairs")}
        bench_truth = {"benchmark": _none_of(truth["pool"])}
    columns = _given_columns(tables, told, bench_tables, bench_rows, pool, benchmark)
    for name, described in (("pool", summary), ("benchmark", bench_summary)):
        if counted := counts(columns.get(name, {})):
            described["response columns"] = counted
        if counted := counts(columns.get(f"{name}-pairs", {})):
            described["pair columns"] = counted
    return Prepared(tables, bench_tables, columns, truth | bench_truth, summary, bench_summary)


def _given_columns(
    tables: dict[str, Table],
    told: Sequence[Row],
    bench_tables: dict[str, Table],
    bench_rows: Sequence[Row],
    pool: PoolSettings,
    benchmark: BenchmarkSettings | None,
) -> dict[str, Table]:
    """Numbers that the files give of responses and of pairs, as tables; those of pairs are taken out of theirs.

    Args:
        tables, bench_tables: Of pool and benchmark.
        told, bench_rows: Rows that say something of a response, those that were merged or dropped since included.
        pool, benchmark: Which columns.
    """
    columns = {"pool": columns_table(tables["responses"]["response_id"], told, list(pool.response_columns))}
    if benchmark and bench_rows:
        ids = bench_tables["responses"]["response_id"]
        columns["benchmark"] = columns_table(ids, bench_rows, list(benchmark.response_columns))
    else:
        columns["benchmark"] = _none_of(columns["pool"])
    for name, made, settings in (("pool", tables, pool), ("benchmark", bench_tables, benchmark)):
        if settings and settings.pair_columns and made:
            ids, named = made["pairs"]["pair_id"], list(settings.pair_columns)
            nothing = {"numbers": np.full((len(ids), len(named)), np.nan)}  # of a corpus
            numbers = made.pop("pair_columns", nothing)["numbers"]
            columns[f"{name}-pairs"] = pair_columns_table(
                pair_id=ids, numbers=numbers, names=named, source=_source(settings)
            )
    return columns


def prepare_benchmark(settings: BenchmarkSettings, seed: int) -> tuple[dict[str, Table], dict[str, Table]]:
    """The benchmark's tables and labels alone, as `prepare` makes them beside any pool with this seed."""
    return _benchmark_tables(_benchmark_rows(settings)[0], seed)


def _benchmark_tables(rows: Sequence[Row], seed: int) -> tuple[dict[str, Table], dict[str, Table]]:
    return _tables(rows, ["benchmark"] * len(rows), seed)


def _benchmark_rows(settings: BenchmarkSettings) -> tuple[list[Row], dict[str, Any]]:
    """Rows of the benchmark with their sections, and counts of what was dropped."""
    reading = Reading(settings)
    rule, rows = read_benchmark(settings, reading)
    noted = _noted("benchmark", reading, rows)
    source = _source(settings)
    if not rows:
        raise DataError(f"{source}: the benchmark is empty")
    for row in rows:
        if not row.subset:
            raise DataError(f"{row.place}: a benchmark needs a column subset, here it is missing or empty")
        if math.isnan(row.label):
            raise MissingLabelError(f"{row.place}: a benchmark pair needs a label, or columns chosen and rejected")
    unknown: dict[str, Tally] = {}
    if rule != "pairs" or {row.subset for row in rows} & set(KNOWN[rule]):
        strange = [(n, row) for n, row in enumerate(rows) if row.subset not in KNOWN[rule]]
        for row in {(row.subset, row.item.name if row.item else n): row for n, row in strange}.values():
            unknown.setdefault(row.subset, Tally()).note(row.place)
    _warn("benchmark", {f"subset {name!r} is none of the published ones": tally for name, tally in unknown.items()})
    # An id is unique within its subset: several benchmarks count each subset from 0.
    rows = [
        replace(
            row,
            section=section_of(rule, row.subset) or row.section or row.subset,
            id=row.id and f"{row.subset}/{row.id}",
            item=row.item and replace(row.item, name=f"{row.subset}/{row.item.name}"),
        )
        for row in rows
    ]
    _check_ids(rows)
    summary: dict[str, Any] = {
        "rule": rule,
        "rows": len(rows),
        "unpublished subsets": {name: tally.count for name, tally in sorted(unknown.items())},
    }
    dropped = {reason: Tally() for reason in ("identical responses", "duplicate", "tie")}
    contradicting = Tally()
    if rule == "pairs":
        rows = drop_identical(rows, dropped["identical responses"])
        # What has an id of its own was counted on purpose; only rows without one are compared.
        rows = merge_duplicates(rows, dropped["duplicate"], contradicting, scope=lambda row: row.id or row.subset)
        decided = []
        for row in rows:
            if row.label == 0.5:
                dropped["tie"].note(row.place)
            else:
                decided.append(row)
        rows = decided
    else:
        rows = _whole_items(rows, dropped["identical responses"])
        _check_ties(rows, source)
    if not rows:
        raise DataError(f"{source}: no benchmark pair is left: every one is a tie or has two identical responses")
    _warn("benchmark", dropped | {"contradicting labels": contradicting})
    return rows, summary | {"dropped": _counts(dropped), "contradicting labels": asdict(contradicting)} | noted


def _whole_items(rows: Sequence[Row], dropped: Tally) -> list[Row]:
    """Rows of the items in which no right response is also a wrong one: an item is scored whole or not at all."""
    broken: dict[str, Row] = {}
    for row in rows:
        if row.item and row.a == row.b:
            broken.setdefault(row.item.name, row)
    for row in broken.values():
        dropped.note(row.place)
    return [row for row in rows if row.item and row.item.name not in broken]


def _check_ties(rows: Sequence[Row], source: str) -> None:
    """RewardBench 2's Ties compares prompts of many right responses with prompts of one: refuse it without either."""
    names = {row.item.name.split("/", 1)[1] for row in rows if row.item and row.subset.lower() == "ties"}
    by_kind = {kind: {n.removeprefix(kind) for n in names if n.startswith(kind)} for kind in ("ref:", "tied:")}
    if names and not by_kind["ref:"] & by_kind["tied:"]:
        raise DataError(
            f"{source}: the Ties subset needs items `ref:N` and `tied:N` of the same N, got {len(by_kind['ref:'])} and "
            f"{len(by_kind['tied:'])} that have no N in common; give it whole or leave it out"
        )


def _check_ids(rows: Sequence[Row]) -> None:
    seen: dict[str, Row] = {}
    for row in rows:
        before = seen.setdefault(row.id, row) if row.id else row
        if before is not row and pair_key(before) != pair_key(row):
            raise DataError(
                f"{row.place}: id {row.id!r} is also the id of another pair, at {before.place}; ids must be unique"
            )


def _decontaminate(
    rows: Sequence[Row], split: Mapping[str, str], known: frozenset[str], dropped: Tally
) -> tuple[list[Row], dict[str, int]]:
    """Rows whose prompt is not the benchmark's, and how many went from each split."""
    kept, leaked = [], {"pool": 0, "heldout": 0}
    for row in rows:
        if in_benchmark(row, known):
            dropped.note(row.place)
            leaked[split[prompt_fingerprint(row.prompt)]] += 1
        else:
            kept.append(row)
    return kept, leaked


def _sample(rows: list[Row], settings: PoolSettings, dropped: Tally) -> list[Row]:
    """At most ``settings.limit`` rows, drawn by hash of their texts."""
    if settings.limit is None or len(rows) <= settings.limit:
        return rows
    drawn = sorted(rows, key=lambda row: (uniform("limit", settings.seed, key := pair_key(row)), key))
    for row in drawn[settings.limit :]:
        dropped.note(row.place)
    return drawn[: settings.limit]


def _check_pool(rows: Sequence[Row], splits: Sequence[str], settings: PoolSettings) -> None:
    source = _source(settings)
    if not rows:
        raise DataError(f"{source}: the pool has no pair, or none is left: what was dropped, and why, stands above")
    prompts = Counter({row.prompt: split for row, split in zip(rows, splits, strict=True)}.values())
    for name in ("pool", "heldout") if settings.heldout else ("pool",):
        if not prompts[name]:
            raise DataError(
                f"{source}: no prompt is in split {name!r}: the pool is too small ({len(rows)} pairs, "
                f"{prompts.total()} prompts, heldout {settings.heldout}); give more prompts, another share or seed, "
                "or a split column"
            )
    if prompts["heldout"] and all(
        row.label == 0.5 for row, split in zip(rows, splits, strict=True) if split == "heldout"
    ):
        raise DataError(f"{source}: every held-out pair is a tie: accuracy needs at least one that is decided")


def _check_recorded(rows: Sequence[Row], splits: Sequence[str], answered: bool) -> None:
    """Refuse a pool whose labels a recorded oracle or the evaluation cannot use."""
    bare = {
        name: [row.place for row, split in zip(rows, splits, strict=True) if split == name and math.isnan(row.label)]
        for name in ("pool", "heldout")
    }
    if bare["pool"]:
        raise MissingLabelError(
            f"{bare['pool'][0]}: no label, like {len(bare['pool'])} of {splits.count('pool')} pairs of the pool, and "
            "oracle=recorded takes labels from there: give every pair a label, take out those without, or set "
            "oracle=human or oracle=judge"
        )
    if bare["heldout"] and len(bare["heldout"]) == splits.count("heldout") and not answered:
        raise MissingLabelError(
            f"{bare['heldout'][0]}: no label, like every held-out pair: there is nothing to evaluate on; give some of "
            "them labels, or let people label them: `bgpm annotate --heldout`"
        )


def _fill(heldout: Table, answered: Mapping[str, float], source: str) -> None:
    """Put people's labels where none is recorded, and say how many pairs are left that nobody labelled."""
    open_rows = np.flatnonzero(np.isnan(heldout["label"]))
    heldout["label"][open_rows] = [answered.get(pair_id, math.nan) for pair_id in heldout["pair_id"][open_rows]]
    bare = heldout["pair_id"][np.isnan(heldout["label"])]
    if len(bare):
        log.warning(
            "%s: %d of %d held-out pairs have no label and are not evaluated on, the first is %s; "
            "`bgpm annotate --heldout` asks people for them",
            source,
            len(bare),
            len(heldout["pair_id"]),
            bare[0],
        )


def _tables(rows: Sequence[Row], splits: Sequence[str], seed: int) -> tuple[dict[str, Table], dict[str, Table]]:
    """Tables of prompts, responses and pairs, of pairs' numbers where rows have any, and labels by split.

    Everything is sorted by hashes of the texts: the order of a file's rows leaves no trace.
    """
    messages = [as_json(row.prompt) for row in rows]
    keys = [pair_key(row) for row in rows]
    prompt_ids = [digest(text) for text in messages]
    order = sorted(range(len(rows)), key=lambda n: (prompt_ids[n], keys[n], rows[n].subset, rows[n].id))
    prompts: dict[str, list[Any]] = {name: [] for name in ("prompt_id", "text", "messages", "section", "split")}
    responses: dict[str, list[Any]] = {name: [] for name in ("response_id", "prompt", "text")}
    pairs: dict[str, list[Any]] = {
        name: [] for name in ("pair_id", "prompt", "response_a", "response_b", "section", "subset", "split", "key")
    }
    labels: dict[str, dict[str, list[Any]]] = {}
    numbers: list[tuple[float, ...]] = []
    row_of: dict[str, int] = {}

    def respond(n: int, text: str) -> int:
        name = digest(messages[n], text)
        if name not in row_of:
            row_of[name] = len(responses["text"])
            _append(responses, (name, len(prompts["text"]) - 1, text))
        return row_of[name]

    for n in order:
        row = rows[n]
        if not prompts["prompt_id"] or prompts["prompt_id"][-1] != prompt_ids[n]:
            _append(prompts, (prompt_ids[n], as_text(row.prompt), messages[n], row.section, splits[n]))
        response_a, response_b = sorted((row.a, row.b), reverse=swap(seed, keys[n]))
        given = response_a == row.a
        label = row.label if given else 1.0 - row.label
        numbers.append(row.numbers_as(given))
        if splits[n] == "benchmark":
            pair_id = row.id or digest(row.subset, messages[n], response_a, response_b)
        elif row.id:
            # Which texts it stands for: a file written anew may give a number to another pair. And which order, so
            # that a label given under the other order is not taken for this one; told by the texts alone, since the
            # file's own order may give the label away.
            pair_id = f"{row.id}:{keys[n][:8]}:{'up' if response_a < response_b else 'down'}"
        else:
            pair_id = digest("", messages[n], response_a, response_b)
        place = (pair_id, len(prompts["text"]) - 1, respond(n, response_a), respond(n, response_b))
        _append(pairs, (*place, row.section, row.subset, splits[n], keys[n]))
        _append(labels.setdefault(splits[n], {"pair_id": [], "label": [], "margin": []}), (pair_id, label, row.margin))
    tables = {"prompts": prompts, "responses": responses, "pairs": pairs}
    if any(row.item for row in rows):
        tables["items"] = {name: [] for name in ("pair_id", "rule", "item", "cell")}
        for n, pair_id in zip(order, pairs["pair_id"], strict=True):
            item = rows[n].item
            assert item is not None  # a benchmark is of one kind
            _append(tables["items"], (pair_id, item.rule, item.name, item.cell))
    made = {name: _columns(t) for name, t in tables.items()}
    if any(numbers):
        made["pair_columns"] = {"numbers": np.array(numbers)}
    return made, {name: _columns(t) for name, t in labels.items()}


def _append(table: Mapping[str, list[Any]], values: Sequence[Any]) -> None:
    for column, value in zip(table.values(), values, strict=True):
        column.append(value)


def _columns(table: Mapping[str, list[Any]]) -> Table:
    kinds = {int: np.int64, float: np.float64, str: object}
    return {name: np.array(values, kinds[type(values[0])]) for name, values in table.items()}


def _none_of(table: Table) -> Table:
    return {name: column[:0] for name, column in table.items()}


def _describe(pairs: Table, truth: Mapping[str, Table]) -> dict[str, Any]:
    """Counts by split: prompts, responses, pairs, share labelled, ties, and pairs by section."""
    splits = {}
    for name, labels in truth.items():
        here = pairs["split"] == name
        known = labels["label"][~np.isnan(labels["label"])]
        splits[name] = {
            "prompts": len(np.unique(pairs["prompt"][here])),
            "responses": len(np.unique(np.concatenate([pairs["response_a"][here], pairs["response_b"][here]]))),
            "pairs": int(here.sum()),
            "labelled": len(known) / len(labels["label"]),
            "ties": int((known == 0.5).sum()),
            "sections": dict(sorted(Counter(pairs["section"][here].tolist()).items())),
        }
    return {"splits": splits}


def _cycles(folder: Path) -> dict[str, int]:
    """Triples of the corpus's responses, and how many have noise-free majorities that form a cycle."""
    annotators = read_annotators(folder)
    cyclic, triples = count_cycles(all_pairs(annotators, read_corpus(folder)), len(annotators.annotators))
    return {"cyclic": cyclic, "triples": triples}


def _noted(where: str, reading: Reading, rows: Sequence[Row]) -> dict[str, Any]:
    """What reading noticed, said once and counted for the summary; nothing where it noticed nothing."""
    marks = Tally()
    for row in rows:
        if any(has_long_marks(text) for text in (row.a, row.b, *(content for _, content in row.prompt))):
            marks.note(row.place)
    noted = reading.remarks() | {"run of combining marks that is compared as it stands": marks}
    _warn(where, noted)
    counted = _counts(noted)
    return {"noted": counted} if counted else {}


def _counts(dropped: Mapping[str, Tally]) -> dict[str, Any]:
    return {reason: asdict(tally) for reason, tally in dropped.items() if tally.count}


def _warn(where: str, dropped: Mapping[str, Tally]) -> None:
    for reason, tally in dropped.items():
        if tally.count:
            log.warning("%s: %s: %d, first at %s", where, reason, tally.count, ", ".join(tally.examples))


def _source(settings: PoolSettings | BenchmarkSettings) -> str:
    return settings.hub or settings.path
