"""A model in a folder of its own, as it goes to the Hugging Face Hub, and the card that says what it is.

::

    bgpm.json                    version, how the backbone reads texts, the features, a probe, facts of the run
    head.safetensors, head.json  the fitted model, as `bgpm.posteriors.load` reads it
    reduction.safetensors        the map from states to features
    backbone/                    the backbone's weights, where it was trained or came from a local folder
    config.json, README.md       written by huggingface_hub's mixin; README.md is the card

A frozen backbone of the hub or of a package is named, not copied. The probe, features of one fixed text, finds out
whether what that name gives now is still the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, embed, load_backbone
from bgpm.data.sheets import csv_rows
from bgpm.data.tables import read_table, where
from bgpm.errors import ConfigError, StateError
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.oracles import by_language_model
from bgpm.posteriors import Fitted, load
from bgpm.registry import parse
from bgpm.stage import TRUTH, generator, read_params, setting, write_json
from bgpm.values import read_json

VERSION = 1
NAMED = ("backbone", "features", "reads_prompt", "probe", "facts")
BACKBONE = "backbone"
PROBE = ("Why is the sky blue?", "Air scatters blue light more than red.")
ALIKE = 0.25  # relative distance; the same text in another precision differs by a few hundredths, in another model by 1
RESAMPLES = 2000
SHOWN = {"accuracy": "accuracy", "nll": "log loss (nats)", "ece": "expected calibration error"}


@dataclass(frozen=True)
class Parts:
    """What a folder holds, or is to hold.

    Attributes:
        fitted, backbone, reduction: As `bgpm.inference.PreferenceModel` has them.
        base: Where the backbone comes from and how it reads texts.
        trained: Whether its weights are its own, and not those that ``base`` names.
        reads_prompt: Whether scores depend on the prompt's features.
        facts: Of the run, for the card.
    """

    fitted: Fitted
    backbone: Backbone
    reduction: Reduction
    base: BackboneSettings
    trained: bool
    reads_prompt: bool
    facts: dict[str, Any]


def save(parts: Parts, folder: Path) -> None:
    """Write all but the mixin's own files.

    Raises:
        ConfigError: If the backbone is quantised: its weights cannot be written as they are.
    """
    copied = parts.trained or Path(parts.base.path).is_dir()
    if copied:
        if getattr(parts.backbone.model, "is_quantized", False):
            raise ConfigError(
                f"{folder}: a backbone trained with qlora is kept in four bits and cannot be saved whole; "
                "train with training.mode: lora or full"
            )
        whole = parts.backbone.language_model or parts.backbone.model
        whole.save_pretrained(folder / BACKBONE)
        parts.backbone.tokenizer.save_pretrained(folder / BACKBONE)
    parts.fitted.save(folder / "head")
    parts.reduction.save(folder / "reduction.safetensors")
    named = {"path": BACKBONE, "sha256": None} if copied else {}
    described = {
        "version": VERSION,
        "backbone": parts.base.model_copy(update=named).model_dump() | {"device": "auto", "attention": "auto"},
        "features": parts.reduction.settings.model_dump(),
        "reads_prompt": parts.reads_prompt,
        "probe": _probe(parts.backbone, parts.reduction).tolist(),
        "facts": parts.facts,
    }
    write_json(folder / "bgpm.json", described)


def restore(folder: Path) -> Parts:
    """The inverse of `save`.

    Raises:
        StateError: If the folder is no saved model, a file is damaged, or the backbone is another one than it was.
        WeightsError: If the backbone cannot be loaded.
    """
    path = folder / "bgpm.json"
    described = read_json(path, "save the model again with save_pretrained")
    if described.get("version") != VERSION:
        raise StateError(f"{path}: expected version {VERSION}, got {described.get('version')!r}; save the model again")
    if lacking := [name for name in NAMED if name not in described]:
        raise StateError(f"{path}: without {', '.join(lacking)}; save the model again with save_pretrained")
    base = parse(BackboneSettings, described["backbone"], "backbone", str(path))
    copied = base.path == BACKBONE and (folder / BACKBONE).is_dir()
    if copied:
        base = base.model_copy(update={"path": str(folder / BACKBONE)})
    features = parse(FeatureSettings, described["features"], "features", str(path))
    reduction = Reduction.load(features, folder / "reduction.safetensors")
    fitted, backbone = (
        load(folder / "head"),
        load_backbone(base, likelihood="likelihood" in reduction.parts, letters=reduction.reads_letters),
    )
    got, expected = _probe(backbone, reduction), np.array(described["probe"])
    if got.shape != expected.shape or not np.linalg.norm(got - expected) <= ALIKE * np.linalg.norm(expected):
        raise StateError(
            f"{folder}: the backbone {base.path!r} gives other features of a fixed text than when the model was saved: "
            "it is another model now; take the release that it was saved with"
        )
    return Parts(fitted, backbone, reduction, base, copied, described["reads_prompt"], described["facts"])


def _probe(backbone: Backbone, reduction: Reduction) -> np.ndarray:
    prompt, response = PROBE
    states = np.empty((1, backbone.layers, backbone.width), np.float32)
    numbers = {kind: np.zeros((1, len(names))) for kind, names in reduction.given.items()}
    texts = [([{"role": "user", "content": prompt}], response)]
    if "likelihood" not in numbers:
        backbone = replace(backbone, language_model=None)
    embed(backbone, texts, states, title="probe", likelihood=numbers.get("likelihood"))
    return reduction(states, [response], [prompt], numbers)[0].astype(np.float64)


def facts_of(model: Path, seed: int, root: Path) -> dict[str, Any]:
    """What the run says of one seed's model, as far as its files are there.

    Args:
        model: A round's model folder.
    """
    params = read_params(root / "params.yaml")
    found: dict[str, Any] = {"run": "/".join(model.parts[-3:-1]), "seed": seed}
    found |= {key: setting(params, key) for key in ("model", "posterior", "oracle")}
    found["pool"] = setting(params, "pool.hub") or Path(setting(params, "pool.path")).name
    summary, labels = root / TRUTH / "summary.json", model.parent / "labels.parquet"
    if summary.is_file():
        counted = read_json(summary)["pool"]["splits"]
        found["pairs"] = {split: of["pairs"] for split, of in counted.items()}
        found["prompts"] = {split: of["prompts"] for split, of in counted.items()}
    if labels.is_file():
        mine = read_table(labels, ["seed", "annotators"])
        found["labels"] = int((mine["seed"] == seed).sum())
    found["metrics"] = _metrics(model.parent / "evaluation", seed)
    return found


def _metrics(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Held-out and benchmark metrics of the last round; accuracy on held-out pairs with its interval over prompts."""
    if not (folder / "curve.csv").is_file():
        return []
    with (folder / "curve.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv_rows(file) if int(row["seed"]) == seed and row["section"] == "all"]
    last = max((int(row["round"]) for row in rows), default=0)
    found = [
        {"split": row["split"], "metric": row["metric"], "value": float(row["value"])}
        for row in rows
        if int(row["round"]) == last and row["split"] in ("heldout", "benchmark") and row["metric"] in SHOWN
    ]
    table = read_table(folder / "prompts.parquet")
    mine = where(table, (table["seed"] == seed) & (table["round"] == last))
    for row in found:
        if (row["split"], row["metric"]) == ("heldout", "accuracy") and len(mine["prompt"]) > 1:
            row["low"], row["high"] = interval(mine["right"], mine["pairs"], generator("card", seed))
    return found


def interval(right: np.ndarray, pairs: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95% percentile interval of an accuracy, prompts drawn anew with their pairs.

    Args:
        right, pairs: Right responses and pairs of each prompt, [Q].
    """
    drawn = rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    low, high = np.quantile(right[drawn].sum(1) / pairs[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def card(parts: Parts) -> str:
    """The model card, from the facts of the run; what no file said is left out, never filled in."""
    from huggingface_hub import ModelCardData

    facts, path = parts.facts, parts.base.path
    public = not parts.trained and not path.startswith("package:") and not Path(path).is_dir()
    data = ModelCardData(
        library_name="bgpm",
        pipeline_tag="text-ranking",
        tags=["preference-model", "reward-model", "bgpm", *([facts["model"]] if "model" in facts else [])],
        base_model=path if public else None,
    )
    about = [f"A preference model of bgpm: `{facts.get('model', 'unknown')}`"]
    about += [f"with posterior `{facts['posterior']}`" if "posterior" in facts else ""]
    own = f"`{Path(path).name}`, frozen; its weights are in `backbone/`" if Path(path).is_dir() else f"`{path}`, frozen"
    own = "trained too; its weights are in `backbone/`" if parts.trained else own
    lines = ["---", data.to_yaml(), "---", "", "# Preference model", "", f"{' '.join(about)}. Backbone: {own}.", ""]
    lines += ["## Use", "", "```python", "from bgpm import PreferenceModel", ""]
    lines += ['model = PreferenceModel.from_pretrained("FOLDER_OR_HUB_ID")']
    lines += ['mean, variance, probability = model.matrix("Why is the sky blue?", ["Air scatters.", "The sea."])']
    lines += ["```", "", "Scores are in logits; `probability` is averaged over the posterior.", ""]
    lines += ["## Data and labels", "", *run_lines(facts), ""]
    lines += ["## Metrics", "", *metrics_table(facts.get("metrics", [])), ""]
    lines += ["## Limits", ""]
    lines += [
        "- The interval, where there is one, is over held-out prompts of the same source: it says nothing of others."
    ]
    lines += ["- Prompt and response are cut to " + f"{parts.backbone.max_tokens} tokens, the prompt first."]
    if by_language_model(facts.get("oracle")):
        lines += ["- Labels come from a language model, with its biases; held-out labels may too."]
    lines += ["- It prefers what its labels preferred: look at them before you optimise against it.", ""]
    return "\n".join(lines)


def run_lines(facts: Mapping[str, Any]) -> list[str]:
    """Pool, labels and run of a model, in Markdown, as far as `facts_of` found them."""
    lines = []
    if "pool" in facts:
        lines.append(f"- Pool: `{facts['pool']}`")
    for what in ("pairs", "prompts"):
        if what in facts:
            lines.append(f"- {what.capitalize()}: " + ", ".join(f"{n:,} {split}" for split, n in facts[what].items()))
    if "labels" in facts:
        lines.append(f"- Labels it was trained on: {facts['labels']:,}, from the oracle `{facts['oracle']}`")
    if "run" in facts:
        lines.append(f"- Run: `{facts['run']}`, seed {facts['seed']}")
    return lines or ["Nothing is known of the run: the model was not loaded from one."]


def metrics_table(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table in Markdown of what `facts_of` found measured."""
    if not metrics:
        return ["None were measured beside this model."]
    lines = ["| split | metric | value | 95% interval over prompts |", "|---|---|---|---|"]
    for row in metrics:
        between = f"{row['low']:.3f} to {row['high']:.3f}" if "low" in row else ""
        lines.append(f"| {row['split']} | {SHOWN[row['metric']]} | {row['value']:.3f} | {between} |")
    return lines
