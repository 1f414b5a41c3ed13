"""``bgpm score``, ``bgpm rank``, ``bgpm export``: a trained model over a file of texts.

Every row is read and checked before the backbone is loaded, and the output is written whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from bgpm.data.conversations import Turn, response_text
from bgpm.data.files import FORMATS, Record, json_lines, suffix_of
from bgpm.data.readers import (
    Reading,
    after_prompt,
    is_blank,
    keeps_blank,
    pair_numbers,
    repeat_their_prompts,
    response_numbers,
    source_records,
    texts_of_record,
)
from bgpm.data.schema import SourceSettings
from bgpm.dataset_folder import of_model, of_pool, refuse_taken, write_dataset
from bgpm.errors import ConfigError, DataError
from bgpm.features import FeatureSettings
from bgpm.features.blocks import built
from bgpm.features.blocks.columns import PoolColumns
from bgpm.inference import PreferenceModel, ResponseSet, completed, numbers_of, ranking
from bgpm.pool_export import Format, as_rows, folder_of, one_per_prompt, read_preferences, remarks
from bgpm.registry import parse
from bgpm.stage import read_params, setting, write_text
from bgpm.values import parse_yaml

LABELS = ("label", "chosen")  # columns by which a row says which of its responses is better


@dataclass(frozen=True)
class Entry:
    """One line of the file.

    Attributes:
        columns: As the file has them.
        choice: Prompt and responses; of a pair the first is response_a, or chosen.
        prompt, responses: Their turns, with the messages as they came.
        numbers: Of a pair those that ``pair_columns`` names; () for rows of more responses.
        tools: That the prompt lists, as the file has them; None where it has none.
    """

    columns: dict[str, Any]
    choice: ResponseSet
    prompt: tuple[Turn, ...]
    responses: tuple[tuple[Turn, ...], ...]
    numbers: tuple[float, ...] = ()
    tools: Any = None

    @property
    def chat(self) -> bool:
        """Whether the prompt or a response has messages, or turns that text alone would lose."""
        turns = (self.prompt, *self.responses)
        return any(len(some) > 1 or any(turn.given is not None for turn in some) for some in turns)


def add_score(parser: argparse.ArgumentParser) -> None:
    """Options of ``bgpm score``."""
    _common(parser, "pairs: prompt, response_a, response_b, or any other that a pool may have")
    parser.set_defaults(run=score)


def add_rank(parser: argparse.ArgumentParser) -> None:
    """Options of ``bgpm rank``."""
    _common(parser, "prompt, responses: a prompt and its responses")
    parser.set_defaults(run=rank)


def add_export(parser: argparse.ArgumentParser) -> None:
    """Options of ``bgpm export``."""
    _common(parser, "prompt, responses: a prompt and its responses", pool=True)
    parser.add_argument(
        "--pool", type=Path, metavar="FOLDER",
        help="in place of FILE and --model: the labelled pool of a round (data/auto/round-5), or of an arm's last",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=get_args(Format), required=True,
        help="dpo: prompt, chosen, rejected, as TRL reads, and probability; reward: without it; kto: columns prompt, "
        "completion, label; reward and kto need --pool",
    )  # fmt: skip
    parser.add_argument("--one-per-prompt", action="store_true", help="of a pool: the surest pair of each prompt only")
    parser.add_argument(
        "--pairs", choices=["best-worst", "all"], default="best-worst",
        help="of a row's responses: first against last by mean probability, or every pair; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--min-probability", type=float, default=0.5, metavar="P",
        help="leave out pairs whose chosen response is better with a lower probability; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--dataset", type=Path, metavar="FOLDER",
        help="write a new folder that datasets.load_dataset opens, with a card, in place of a file",
    )  # fmt: skip
    parser.set_defaults(run=export)


def _common(parser: argparse.ArgumentParser, rows: str, *, pool: bool = False) -> None:
    help_of_file = f"JSONL, CSV or parquet (.gz too), or a folder of these or of `datasets`; rows with {rows}"
    parser.add_argument("file", type=Path, metavar="FILE", nargs="?" if pool else None, help=help_of_file)
    parser.add_argument(
        "--model", type=Path, required=not pool, metavar="FOLDER", help="of a round: data/auto/round-5/model"
    )
    parser.add_argument("--seed", type=int, default=0, help="which replication's model; default: %(default)s")
    parser.add_argument(
        "--root", type=Path, default=Path(), help="the project, to which --model is relative; default: this folder"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    given = parser.add_argument_group("how rows are read, as under `pool` in params.yaml, in YAML")
    for name, example in (
        ("columns", "{prompt: question, response_a: left, response_b: right}"),
        (
            "response-columns",
            "{reward: [reward_a, reward_b]}; default: of `pool` in params.yaml, if the model reads them",
        ),
        ("pair-columns", "{gpt4: {column: gpt4_says, coding: probability}}; default: of `pool`; read by `bgpm score`"),
        ("ignore-keys", "[name, metadata]"),
        ("labels", "{a: [L], b: [R]}; read and checked only: nothing here looks at labels"),
    ):
        given.add_argument(f"--{name}", metavar="YAML", help=f"such as {example}")
    given.add_argument("--split", help="of a folder whose files or parts name it; default: train")
    given.add_argument("--config", help="of a folder whose README lists several configurations")
    given.add_argument(
        "--blank", help="keep, drop or refuse rows with a response without any visible character; default: keep"
    )


def score(given: argparse.Namespace) -> None:
    """Each row of pairs with ``probability``, that response_a is better, and ``score_mean`` and
    ``score_sd``, its score in logits; columns of these names are replaced.

    Raises:
        BgpmError: As `read`, and as `bgpm.inference.PreferenceModel.load`.
    """
    entries = read(given)
    for entry in entries:
        count = len(entry.choice.responses)
        if count != 2:
            raise DataError(f"{entry.choice.place}: {count} responses: expected a pair; use `bgpm rank` for more")
    model = PreferenceModel.load(given.model, given.seed, given.root)
    found = model.embed_all([entry.choice for entry in entries])
    response_a, response_b = np.array(found.rows, np.int64).reshape(-1, 2).T
    columns = np.nan_to_num(np.array([entry.numbers for entry in entries]).reshape(len(entries), -1))
    result = model.compare(found.features, model.pairs_of(found, response_a, response_b, found.prompt, columns))
    _write(
        given.out,
        (
            entry.columns | {"probability": float(p), "score_mean": float(mean), "score_sd": math.sqrt(variance)}
            for entry, mean, variance, p in zip(entries, *result, strict=True)
        ),
    )


def rank(given: argparse.Namespace) -> None:
    """Each row with ``order`` (positions of its responses, best first), ``borda`` (each response's mean probability
    against the others) and ``winner`` (the Condorcet winner's position, or null); columns of these names are replaced.

    Raises:
        BgpmError: As `read`, and as `bgpm.inference.PreferenceModel.load`.
    """
    entries = read(given)
    model = PreferenceModel.load(given.model, given.seed, given.root)
    matrices = model.matrices([entry.choice for entry in entries])
    _write(
        given.out,
        (entry.columns | vars(ranking(matrix)) for entry, matrix in zip(entries, matrices, strict=True)),
    )


def export(given: argparse.Namespace) -> None:
    """Preference pairs as the model has them, in TRL's format with one more column: ``probability``, that the chosen
    response is the better one. GPO and soft labels read it, DPO drops it. How many pairs were left out is said on
    standard error.

    Texts where every prompt of the file is text, conversations where one is a list of messages: a file has one form.

    Raises:
        ConfigError: If the least probability is none that a preference can have.
        BgpmError: As `read`, and as `bgpm.inference.PreferenceModel.load`.
    """
    least = given.min_probability
    if not 0.5 <= least < 1:
        raise ConfigError(f"--min-probability: expected a number in [0.5, 1), got {least}")
    if given.dataset is not None:
        if given.out is not None:
            raise ConfigError("--dataset: leave --out out: the rows go into the folder")
        refuse_taken(given.dataset)
    if given.pool is not None:
        return export_pool(given)
    if given.file is None or given.model is None:
        raise ConfigError("export: give FILE and --model, or the folder of a labelled pool with --pool")
    if given.format != "dpo" or given.one_per_prompt:
        raise ConfigError("export: --format reward or kto and --one-per-prompt belong to --pool")
    entries = read(given)
    if labelled := sum(any(entry.columns.get(name) is not None for name in LABELS) for entry in entries):
        print(
            f"{labelled} rows have a label of their own, which is not read: the model says which response is better; "
            "labels that were acquired come with --pool",
            file=sys.stderr,
        )
    chat = any(entry.chat for entry in entries)
    pairs, offered = [], 0
    model = PreferenceModel.load(given.model, given.seed, given.root)
    matrices = model.matrices([entry.choice for entry in entries])
    for entry, matrix in zip(entries, matrices, strict=True):
        order = ranking(matrix).order
        places = [(order[0], order[-1])]
        if given.pairs == "all":
            places = [(i, j) if matrix.mean[i, j] > 0 else (j, i) for n, i in enumerate(order) for j in order[n + 1 :]]
        offered += len(places)
        pairs += [
            _preference(entry, i, j, chat=chat) | {"probability": float(matrix.probability[i, j])}
            for i, j in places
            if matrix.mean[i, j] > 0 and matrix.probability[i, j] >= least
        ]
    if given.dataset is not None:
        origin = of_model(given.file, model.facts, pairs, offered, least, given.root)
        write_dataset(given.dataset, pairs, given.format, origin)
    else:
        _write(given.out, pairs)
    if len(pairs) < offered:
        print(
            f"{offered - len(pairs)} of {offered} pairs left out: no response better with probability {least} or more",
            file=sys.stderr,
        )


def export_pool(given: argparse.Namespace) -> None:
    """The labels of a whole pool in one of TRL's formats; how many of each source, and what is certified, is said on
    standard error.

    Raises:
        ConfigError: If a file of responses or a model is given too.
        StateError: If no pool was labelled there.
    """
    if given.file is not None or given.model is not None:
        raise ConfigError("--pool: leave FILE and --model out: the pool's own pairs are exported, as labelled")
    folder = folder_of(given.root / given.pool, given.root)
    pairs = read_preferences(folder, given.seed, given.root)
    kept = pairs.take(np.flatnonzero(pairs.probability >= given.min_probability))
    if given.one_per_prompt:
        kept = one_per_prompt(kept)
    rows = list(as_rows(kept, given.format))
    if given.dataset is not None:
        origin = of_pool(pairs, kept, folder, given.seed, given.root, given.min_probability)
        write_dataset(given.dataset, rows, given.format, origin)
    else:
        _write(given.out, rows)
    for remark in remarks(pairs, kept, folder, given.seed, given.root):
        print(remark, file=sys.stderr)


def read(given: argparse.Namespace) -> list[Entry]:
    """Every line of the file, checked.

    Raises:
        ConfigError: If the result cannot be written where it is to go, or an option cannot be read.
        DataError: Naming file and line of the first row that cannot be used.
    """
    if given.out is not None and given.out.is_dir():
        raise ConfigError(f"--out: {given.out} is a folder; name a file")
    if not given.file.exists():
        raise DataError(f"{given.file}: no such file or folder; expected rows with a prompt and its responses")
    params = _params_of_model(given)
    block = _columns_of_model(params)
    reading = Reading(_settings(given, block, params))
    known = given.file.is_dir() or suffix_of(given.file) in FORMATS
    rows = source_records(reading.settings) if known else json_lines(given.file)
    entries = [_entry(record, reading) for record in tqdm(rows, desc="read", unit="row", disable=None)]
    if block:
        for choice in completed([entry.choice for entry in entries], block):
            numbers_of(choice, block)
    if repeat_their_prompts((entry.choice.prompt, entry.choice.responses) for entry in entries):
        for entry in entries:
            reading.note("row whose responses repeated the prompt, taken without it", entry.choice.place)
        entries = [_without_prompt(entry) for entry in entries]
    entries = [entry for entry in entries if _is_kept(entry, reading)]
    for remark, tally in reading.noted.items():
        print(f"{remark}: {tally.count}, first at {tally.examples[0]}", file=sys.stderr)
    if not entries:
        raise DataError(f"{given.file}: no row in it" + (", but for those left out" if reading.noted else ""))
    return entries


def _is_kept(entry: Entry, reading: Reading) -> bool:
    """Whether a row stays, by the rule for blank responses."""
    blank = any(map(is_blank, entry.choice.responses))
    return not blank or keeps_blank(reading, entry.choice.place, "row", "--blank")


def _settings(given: argparse.Namespace, block: PoolColumns | None, params: Mapping[str, Any]) -> SourceSettings:
    """How rows are read: the defaults, what the options say, and the columns of numbers that the pool has.

    Raises:
        ConfigError: If an option is not YAML or not what it has to be; names it.
    """
    plain = {name: getattr(given, name) for name in ("split", "config", "blank")}
    said: dict[str, Any] = {"path": str(given.file)} | {name: x for name, x in plain.items() if x is not None}
    for name in ("columns", "response_columns", "pair_columns", "ignore_keys", "labels"):
        text = getattr(given, name)
        if text is not None:
            try:
                said[name] = parse_yaml(text)
            except ValueError as error:
                raise ConfigError(f"--{name.replace('_', '-')}: is not YAML: {error}") from None
    if block and "response_columns" not in said:
        known = setting(params, "pool").get("response_columns", {})
        said["response_columns"] = {name: known[name] for name in block.use if name in known}
    if params and "pair_columns" not in said:
        said["pair_columns"] = setting(params, "pool").get("pair_columns", {})
    return parse(SourceSettings, said, "", "options")


def _params_of_model(given: argparse.Namespace) -> Mapping[str, Any]:
    """The project's params.yaml; empty where there is none, or no model is asked."""
    path = given.root / "params.yaml"
    return read_params(path) if given.model is not None and path.is_file() else {}


def _columns_of_model(params: Mapping[str, Any]) -> PoolColumns | None:
    """The block ``columns``, if features have one: what it reads is read of these rows too."""
    block = built(parse(FeatureSettings, params.get("features", {}), "features")).get("columns")
    return block if isinstance(block, PoolColumns) else None


def _entry(record: Record, reading: Reading) -> Entry:
    place, columns = record
    texts = texts_of_record(record, reading)
    try:
        json.dumps(columns, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: a column is not valid Unicode: {error}") from None
    except TypeError as error:
        raise DataError(f"{place}: a column cannot be written as JSON: {error}; drop or convert it") from None
    numbers = response_numbers(record, len(texts.responses), reading.settings)
    named = {name: [row[n] for row in numbers] for n, name in enumerate(reading.settings.response_columns)}
    choice = ResponseSet(texts.messages, tuple(map(response_text, texts.responses)), place, named)
    of_pair = ()
    if len(texts.responses) == 2:
        of_pair = pair_numbers(record, 2, reading.settings)
        for name, value in zip(reading.settings.pair_columns, of_pair, strict=True):
            if math.isnan(value):
                reading.note(f"pair without a number of pair_columns.{name}, taken as 0", place)
    return Entry(columns, choice, texts.prompt, texts.responses, of_pair, texts.tools)


def _without_prompt(entry: Entry) -> Entry:
    responses = tuple(after_prompt(entry.choice.prompt, response) for response in entry.choice.responses)
    return replace(
        entry,
        choice=replace(entry.choice, responses=responses),
        responses=tuple((Turn("assistant", response),) for response in responses),
    )


def _preference(entry: Entry, chosen: int, rejected: int, *, chat: bool) -> dict[str, Any]:
    """A row of TRL's preference format: three texts, or three lists of messages."""
    if not chat:
        better, worse = entry.choice.responses[chosen], entry.choice.responses[rejected]
        return {"prompt": entry.choice.prompt[0][1], "chosen": better, "rejected": worse}
    given = (turn.as_given() for turn in entry.prompt if not turn.added)
    sides = {"chosen": entry.responses[chosen], "rejected": entry.responses[rejected]}
    row: dict[str, Any] = {"prompt": list(given)}
    row |= {name: [turn.as_given() for turn in turns] for name, turns in sides.items()}
    return row | ({"tools": entry.tools} if entry.tools else {})


def _write(out: Path | None, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out is None:
        sys.stdout.write(text)
    else:
        write_text(out, text)
