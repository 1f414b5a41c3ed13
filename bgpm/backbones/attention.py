"""Which attention a backbone runs with."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from bgpm.errors import ConfigError

FLASH = "flash_attention_2"  # transformers' name of it
INSTALL = "pip install --no-build-isolation -e '.[flash-attn]'"


def resolve_attention(
    asked: Literal["auto", "flash", "sdpa", "eager"],
    model: Any,
    *,
    device: str,
    dtype: str,
    narrower: str = "set backbone.dtype to bfloat16",
) -> tuple[str, str]:
    """transformers' name of the attention to load a model with, and why it is that one.

    Args:
        asked: ``backbone.attention``; ``auto`` takes the first of flash, sdpa and eager that there can be.
        model: The model's class, whose flags say what it supports; None if only its own code knows it.
        device: ``cpu`` or ``cuda``, with or without a number.
        dtype: What it computes in, ``float32`` or ``bfloat16``; weights may be wider.
        narrower: How it would compute in bfloat16.

    Raises:
        ConfigError: If flash or sdpa is asked for and cannot be; says what to do.
    """
    no_flash = _no_flash(model, device, dtype, narrower) if asked in ("auto", "flash") else None
    no_sdpa = None
    if model is not None and not model._supports_sdpa:
        no_sdpa = f"{model.__name__} has none", "set it to eager or auto"
    for kind, name, no in (("flash", "flash-attention", no_flash), ("sdpa", "sdpa", no_sdpa)):
        if asked == kind and no is not None:
            raise ConfigError(f"params.yaml: backbone.attention: {name} is asked for, but {no[0]}; {no[1]}")
    if asked != "auto":
        return {"flash": FLASH}.get(asked, asked), "asked for"
    if no_flash is None:
        return FLASH, "installed, and device and model can"
    if no_sdpa is None:
        return "sdpa", f"no flash-attention: {no_flash[0]}"
    return "eager", f"no flash-attention: {no_flash[0]}; no sdpa: {no_sdpa[0]}"


def _no_flash(model: Any, device: str, dtype: str, narrower: str) -> tuple[str, str] | None:
    """Why there can be no flash-attention and what to do about it; None if there can."""
    import torch

    otherwise = "set it to auto or sdpa"
    if not device.startswith("cuda"):
        return "the model is not on a GPU", otherwise
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{torch.cuda.get_device_name(device)} is too old for it, which takes an Ampere or later", otherwise
    if importlib.util.find_spec("flash_attn") is None:
        return "it is not installed", f"run `{INSTALL}`"
    if model is None or not model._supports_flash_attn:
        return "the model has none", otherwise
    if dtype != "bfloat16":
        return f"it knows no {dtype}", narrower
    return None
