"""Preferences as a folder that `datasets.load_dataset` opens: what ``bgpm export --dataset FOLDER`` writes.

::

    data/train.parquet   the rows, in a format of TRL
    README.md            a card: where pairs and labels come from, how many are right as far as that is known, limits

The card says what the run's files say, and "not measured" where they say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgpm.errors import ConfigError, DataError
from bgpm.evaluation.audit import ACQUIRED, AUDIT, INFERRED
from bgpm.hub import facts_of, metrics_table, run_lines
from bgpm.oracles import by_language_model
from bgpm.pool_export import Format, Preferences, audits_of_round
from bgpm.stage import read_params, setting, whole_folder, write_text

TRAIN = Path("data/train.parquet")
TRAINERS = {
    "dpo": ("trl", "DPO"),
    "reward": ("trl", "Reward"),
    "kto": ("trl.experimental.kto", "KTO"),
}
WHO = {
    "human": "people",
    "judge": "a language model, the judge",
    "letters": "a language model, by its logits of two letters",
    "recorded": "recorded in the file of the pool",
}
COLUMNS = {
    "prompt": "what was asked",
    "chosen": "the better response",
    "rejected": "the worse response",
    "completion": "a response",
    "label": "whether it is the better one in all of its pairs; the others are left out",
    "probability": "that `chosen` is the better response; 1 where a label was given",
    "source": f"of the label: `{ACQUIRED}`, `{AUDIT}` or `{INFERRED}`",
    "tools": "tools that the prompt offers",
}


@dataclass(frozen=True)
class Origin:
    """What the card says beside the rows.

    Attributes:
        title: Of what these are preferences.
        labels, accuracy, limits: Lines of Markdown.
        machine: Whether some labels are a model's.
    """

    title: str
    labels: Sequence[str]
    accuracy: Sequence[str]
    limits: Sequence[str]
    machine: bool


def refuse_taken(folder: Path) -> None:
    """Before any work: nothing is written over.

    Raises:
        ConfigError: If there is a file of that name, or a folder with something in it.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        raise ConfigError(f"--dataset: {folder} is there already: name a new folder, or remove it first")


def write_dataset(folder: Path, rows: Sequence[Mapping[str, Any]], kind: Format, origin: Origin) -> None:
    """Rows and card, whole or not at all.

    Raises:
        DataError: If there is no row.
        ConfigError: As `refuse_taken`.
    """
    from datasets import Dataset, disable_progress_bars

    refuse_taken(folder)
    if not rows:
        raise DataError(f"--dataset: {folder}: no row is left to write; lower --min-probability")
    columns = list(dict.fromkeys(name for row in rows for name in row))  # not every conversation offers tools
    whole = [{name: row.get(name) for name in columns} for row in rows]
    disable_progress_bars()
    with whole_folder(folder) as part:
        Dataset.from_list(whole, on_mixed_types="use_json").to_parquet(part / TRAIN)
        write_text(part / "README.md", card(whole, kind, origin))


def of_pool(pairs: Preferences, kept: Preferences, folder: Path, seed: int, root: Path, least: float) -> Origin:
    """Of a labelled pool.

    Args:
        pairs, kept: All decided pairs of the round, and those that are written.
        folder: Of the round.
        least: Of ``--min-probability``.
    """
    facts = facts_of(folder / "model", seed, root)
    who, counts, every = WHO[facts["oracle"]], kept.counts(), pairs.counts()
    table = ["| source | pairs here | pairs of the pool | labelled by |", "|---|---|---|---|"]
    for source, count in counts.items():
        by = "inferred by the model below" if source == INFERRED else who
        table.append(f"| {source} | {count:,} | {every[source]:,} | {by} |")
    lines = [*table, "", f"- Ties, left out: {pairs.ties:,} pairs"]
    if len(kept) < len(pairs):
        left = f"{len(pairs) - len(kept):,} pairs"
        lines.append(f"- Least probability of the chosen response: {least:g}; left out by it or by prompt: {left}")
    lines += ["", *_model(facts, root)]
    limits = [
        "- The bound, where there is one, is of all labels of the pool together: those of a part, or of the surest "
        "pairs alone, may be better or worse.",
        "- *Right* is what those who labelled would say of an inferred pair; they err too.",
    ]
    accuracy = _audits(folder, seed, root) + _heldout(facts, every[INFERRED])
    machine = counts[INFERRED] > 0 or by_language_model(facts["oracle"])
    title = f"the pool `{facts['pool']}`, labelled"
    return Origin(title, lines, accuracy, [*limits, *_judged(facts)], machine)


def of_model(
    file: Path, facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], offered: int, least: float, root: Path
) -> Origin:
    """Of responses that a trained model compared: every label is the model's.

    Args:
        file: The responses.
        facts: Of `bgpm.hub.facts_of`.
        rows: What is written.
        offered: Pairs that were compared.
        least: Of ``--min-probability``.
    """
    lines = ["| source | pairs here | labelled by |", "|---|---|---|"]
    lines += [f"| {INFERRED} | {len(rows):,} | inferred by the model below |", ""]
    lines += [f"- Pairs compared: {offered:,}; least probability of the chosen response: {least:g}", ""]
    lines += _model(facts, root)
    accuracy = ["Nobody labelled these pairs: how many labels are right was not measured."]
    if rows:
        expected = sum(row["probability"] for row in rows) / len(rows)
        accuracy.append(f"The model itself expects {expected:.1%}; have a sample labelled before you rely on it.")
    limits = ["- These prompts are not those of the model's labels: it may know less of them than it says."]
    accuracy += _heldout(facts, len(rows))
    return Origin(f"`{file.name}`", lines, accuracy, [*limits, *_judged(facts)], machine=True)


def card(rows: Sequence[Mapping[str, Any]], kind: Format, origin: Origin) -> str:
    """README.md, with the header that the Hugging Face Hub reads."""
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        annotations_creators=["machine-generated"] if origin.machine else None,
        tags=["preference", "trl", "bgpm"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": TRAIN.as_posix()}]}],
    )
    chat = not isinstance(rows[0]["prompt"], str)
    form = "conversations: lists of messages" if chat else "texts"
    module, name = TRAINERS[kind]
    lines = ["---", data.to_yaml(), "---", "", f"# Preferences: {origin.title}", ""]
    lines += [f"{len(rows):,} rows in the format `{kind}` of TRL ({form}), written by `bgpm export`.", ""]
    lines += ["## Labels", "", *origin.labels, "", "## How many are right", "", *origin.accuracy, ""]
    lines += ["## Columns", "", "| column | meaning |", "|---|---|"]
    lines += [f"| `{column}` | {COLUMNS[column]} |" for column in rows[0]]
    lines += ["", "## Use", "", "```python", "from datasets import load_dataset"]
    lines += [f"from {module} import {name}Config, {name}Trainer", ""]
    lines += ['data = load_dataset("FOLDER_OR_HUB_ID", split="train")']
    lines += [
        f'trainer = {name}Trainer(model, args={name}Config("out"), train_dataset=data, processing_class=tokenizer)'
    ]
    lines += ["```", "", "## Limits", "", *origin.limits]
    lines += ["- Licence and origin of the texts are those of their source; nothing here says what they are.", ""]
    return "\n".join(lines)


def _model(facts: Mapping[str, Any], root: Path) -> list[str]:
    """The model that inferred, and what it learnt from."""
    params = read_params(root / "params.yaml")
    how = "frozen" if setting(params, "training.mode") == "frozen" else "trained too"
    backbone = f"`{setting(params, 'backbone.path')}`, {how}"
    what = f"- Model: `{facts['model']}` with posterior `{facts['posterior']}`; backbone {backbone}"
    return ["The model that inferred:", "", what, *run_lines(facts)]


def _audits(folder: Path, seed: int, root: Path) -> list[str]:
    """What audits say of the labels of the pool."""
    found = audits_of_round(folder, seed, read_params(root / "params.yaml"))
    if found is None:
        return ["No pair was audited: there is no bound of how many labels are right."]
    bound = f"- Bound: {found.sentence()}."
    if not found.audited:
        return [bound]
    right = found.audited - found.wrong
    audits = f"- Audits: the labels of {found.audited:,} inferred pairs drawn at random were asked for"
    return [f"{audits}; {right:,} of them ({right / found.audited:.1%}) had been inferred right.", bound]


def _heldout(facts: Mapping[str, Any], inferred: int) -> list[str]:
    """How the model does on pairs that it never saw; nothing where no label is its own."""
    if not inferred or not facts.get("metrics"):
        return []
    return ["", "The model on pairs of other prompts, which trained nothing:", "", *metrics_table(facts["metrics"])]


def _judged(facts: Mapping[str, Any]) -> Iterable[str]:
    if by_language_model(facts["oracle"]):
        return ["- Labels come from a language model, with its biases."]
    return []
