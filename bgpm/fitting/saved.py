"""Fitted models on disk: ``stem.safetensors`` holds the tensors, ``stem.json`` says what they are.

The description ends with a SHA-256 of itself and of the tensors. A value that was changed, lost or cut off since would
often still make a model: one without its covariance has variance 0 everywhere. So nothing is read that differs from
what was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bgpm.errors import StateError
from bgpm.models import RENAMED, Model
from bgpm.networks import ScoreModule
from bgpm.registry import build
from bgpm.values import read_json

log = logging.getLogger("bgpm")

VERSION = 3
FIX = "train the model again or run `dvc checkout`"


def write(stem: Path, description: Mapping[str, Any], **groups: Mapping[str, Tensor]) -> None:
    """Write named groups of tensors and their description.

    Args:
        stem: Path without suffix.
        description: JSON values; ``posterior`` names the kind that restores them.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{group}.{name}": value.detach().contiguous()
        for group, named in groups.items()
        for name, value in named.items()
    }
    save_file(tensors, with_suffix(stem, ".safetensors"))
    described = {**description, "version": VERSION}
    described["sha256"] = _digest(stem, described)
    text = json.dumps(described, indent=2, sort_keys=True, allow_nan=False)
    with_suffix(stem, ".json").write_text(text + "\n", encoding="utf-8")


def describe(stem: Path) -> dict[str, Any]:
    """The description that `write` wrote, of tensors that are as they were.

    Raises:
        StateError: If a file is missing, damaged, or of another version.
    """
    path = with_suffix(stem, ".json")
    description = read_json(path, FIX)
    if description.get("version") != VERSION:
        raise StateError(
            f"{path}: written as version {description.get('version')!r}, this code reads version {VERSION}; train the "
            "model again"
        )
    try:
        found = _digest(stem, description)
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"{with_suffix(stem, '.safetensors')}: cannot be read ({error}); {FIX}") from error
    if found != description.get("sha256"):
        raise StateError(
            f"{path}: it, or {with_suffix(stem, '.safetensors').name} beside it, is not as it was written: damaged, "
            f"changed, or of two models; {FIX}"
        )
    return description


def read(stem: Path) -> dict[str, dict[str, Tensor]]:
    """The groups of tensors that `write` wrote, of a model that `describe` took for whole.

    Raises:
        StateError: If the file cannot be read.
    """
    path = with_suffix(stem, ".safetensors")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path}: cannot be read ({error}); {FIX}") from error
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, name = key.split(".", 1)
        # a copy lies where the allocator puts it: products of unaligned tensors round differently
        groups.setdefault(group, {})[name] = value.clone()
    return groups


def _digest(stem: Path, description: Mapping[str, Any]) -> str:
    """SHA-256 over all of a description but its own digest, and over the file of tensors."""
    said = {name: value for name, value in description.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    with with_suffix(stem, ".safetensors").open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def describe_model(model: Model, module: ScoreModule, in_features: int) -> dict[str, Any]:
    """What `restore_head` needs besides the weights."""
    return {"settings": model.model_dump(), "in_features": in_features, "blocks": getattr(module, "blocks", 0)}


def restore_model(
    stem: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> tuple[Model, ScoreModule]:
    """A model's settings and its module with these weights; a kind that an older run called otherwise (`RENAMED`) is
    found under its name of today.

    Raises:
        StateError: If the weights do not fit the description.
    """
    settings = dict(description["settings"])
    kind: str = settings.pop("kind")
    if kind in RENAMED:
        log.warning("%s: an older run wrote it; model %s is read as %s", stem, kind, RENAMED[kind])
    model = build(Model, RENAMED.get(kind, kind), settings, "models")
    module = model.build(description["in_features"], generator=torch.Generator(), blocks=description["blocks"])
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise StateError(f"{with_suffix(stem, '.safetensors')}: {error}; train the model again") from error
    return model, module.requires_grad_(False)


def with_suffix(stem: Path, suffix: str) -> Path:
    """``stem`` plus a suffix, also where the stem's name has a dot in it."""
    return stem.with_name(stem.name + suffix)
