"""A trained backbone with its head on disk, complete in one folder.

::

    adapter_model.safetensors, adapter_config.json    of `lora` and `qlora`, as PEFT reads them over the base
    model.safetensors, config.json, tokenizer.json    of `full`, as transformers reads them
    head.safetensors, head.json                       the head as it was trained, as `bgpm.posteriors.load` reads it
    reduction.safetensors                             the map from states to the head's features
    bgpm.json                                         which of these, and settings of the features
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, load_backbone
from bgpm.errors import ConfigError, StateError
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.posteriors import Fitted, load
from bgpm.registry import parse
from bgpm.stage import write_json
from bgpm.training import TrainingSettings
from bgpm.training.network import PreferenceNetwork, ScoreHead, load_base
from bgpm.values import read_json

VERSION = 3
# Settings of the base that were in force, whatever params.yaml says now; earlier checkpoints have the first two.
READS = ("template_date", "system_turns", "pooling", "max_tokens")
FIX = "train again or run `dvc checkout`"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Trained:
    """What a checkpoint gives.

    Attributes:
        backbone: Ready for `embed`; adapters are merged into the base, but for ``qlora``.
        reduction: From its states to features.
        head: The head as it was trained, on those features.
    """

    backbone: Backbone
    reduction: Reduction
    head: Fitted


def export_backbone(
    root: Any,
    weights: Mapping[str, Tensor],
    head: ScoreHead,
    summary: dict[str, float | int | str],
    folder: Path,
    *,
    mode: str,
    tokenizer: Any,
    reduction: Reduction,
    base: BackboneSettings,
) -> None:
    """Write a checkpoint.

    Args:
        root: The trained model, of `bgpm.training.network.prepare`.
        weights: Its trainable weights by name.
        head: The head as it was before; gets its weights.
        summary: What training says of itself.
        mode: ``lora``, ``qlora`` or ``full``.
        base: The base: its path is noted beside adapters, and how texts are read in ``bgpm.json``.
    """
    model: PreferenceNetwork = root.get_base_model() if hasattr(root, "get_base_model") else root
    named = {id(parameter): name for name, parameter in root.named_parameters()}
    own, inner = (
        {name: weights[named[id(p)]] for name, p in module.named_parameters() if named[id(p)] in weights}
        for module in (model.backbone, model.preference)
    )
    folder.mkdir(parents=True)
    if mode == "full":
        model.backbone.save_pretrained(folder, state_dict=own)
        tokenizer.save_pretrained(folder)
    else:
        # PEFT's own names: over the backbone alone, without the name of the adapter
        kept = {f"base_model.model.{name.replace('.default', '')}": value for name, value in own.items()}
        save_file(kept, folder / ADAPTER, metadata={"format": "pt"})
        config = root.peft_config["default"].to_dict()
        targets = sorted({name.rpartition(".lora_")[0] for name in own})
        config |= {"target_modules": targets, "inference_mode": True, "base_model_name_or_path": base.path}
        write_json(folder / ADAPTER_CONFIG, {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()})
    head.load_state_dict(inner)
    head.fitted(summary).save(folder / "head")
    reduction.save(folder / "reduction.safetensors")
    reads = {name: getattr(base, name) for name in READS}
    features = reduction.settings.model_dump()
    write_json(folder / "bgpm.json", {"version": VERSION, "mode": mode, "features": features, "reads": reads})


def restore_backbone(folder: Path, base: BackboneSettings) -> Trained:
    """The inverse of `export_backbone`.

    Args:
        base: The base of adapters, and how texts are read and pooled.

    Raises:
        StateError: If a file is missing or damaged, or files do not fit together.
        WeightsError: If the base cannot be loaded.
    """
    described = read_json(folder / "bgpm.json", FIX)
    if described.get("version") != VERSION:
        raise StateError(
            f"{folder}/bgpm.json: expected version {VERSION}, got {described.get('version')!r}; train again"
        )
    if described.get("mode") not in ("lora", "qlora", "full") or "features" not in described:
        raise StateError(f"{folder}/bgpm.json: expected a mode (lora, qlora or full) and features; {FIX}")
    try:
        settings = parse(FeatureSettings, described["features"], "features", str(folder / "bgpm.json"))
    except ConfigError as error:
        raise StateError(f"{error}; {FIX}") from error
    reads = described.get("reads")
    if not isinstance(reads, dict) or not set(READS[:2]) <= set(reads) <= set(READS):
        raise StateError(f"{folder}/bgpm.json: expected reads with {', '.join(READS)}; {FIX}")
    base = parse(BackboneSettings, base.model_dump() | reads, "reads", str(folder / "bgpm.json"))
    reduction, head = Reduction.load(settings, folder / "reduction.safetensors"), load(folder / "head")
    found, given = head.in_features, reduction.dim
    if found != given:
        raise StateError(
            f"{folder}: the head reads {found} features and the map beside it gives {given}: they are not of one "
            f"checkpoint; {FIX}"
        )
    if described["mode"] == "full":
        if not any(folder.glob("model*.safetensors")):
            raise StateError(
                f"{folder}: the weights of this round were not kept; set training.keep: all to keep every round's"
            )
        # As it was trained: of steps of 1e-5 most would be lost in bfloat16.
        kept = {"path": str(folder), "sha256": None, "dtype": "float32"}
        backbone = load_backbone(base.model_copy(update=kept))
    else:
        backbone = _adapted(folder, base, merge=described["mode"] == "lora")
    return Trained(backbone, reduction, head)


def _adapted(folder: Path, base: BackboneSettings, *, merge: bool) -> Backbone:
    """The base with these adapters."""
    from peft import PeftModel, get_peft_model_state_dict

    try:
        saved = set(load_file(folder / ADAPTER))
    except (OSError, SafetensorError) as error:
        raise StateError(f"{folder / ADAPTER}: cannot be read ({error}); {FIX}") from error
    backbone, _ = load_base(TrainingSettings(mode="lora" if merge else "qlora"), base)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old name of transformers; missing weights, which are refused below
            model = PeftModel.from_pretrained(backbone.model, str(folder))
    except (RuntimeError, ValueError) as error:
        raise StateError(f"{folder}: these adapters do not fit {base.path}: {error}; train again") from error
    # Embeddings have no adapters; to find out by itself PEFT would ask the hub for the base, by whatever its name is.
    if set(get_peft_model_state_dict(model, save_embedding_layers=False)) != saved:
        raise StateError(f"{folder / ADAPTER}: has weights of other modules than its configuration says; train again")
    inner = model.merge_and_unload() if merge else model.get_base_model()
    return dataclasses.replace(backbone, model=inner.eval().requires_grad_(False))
