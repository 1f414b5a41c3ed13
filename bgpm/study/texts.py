"""Texts of the study's pools. What embeds them reads this and no code of the loop: it takes half an hour."""

from __future__ import annotations

from pathlib import Path

from bgpm.data.tables import read_table
from bgpm.data.texts import Text, TextSet


def named_texts(folder: Path) -> dict[str, Text]:
    """A set's texts by their names: responses in the context of their prompts, then the prompts alone."""
    texts = TextSet.read(folder)
    responses = read_table(folder / "responses.parquet", ["response_id"])["response_id"]
    prompts = read_table(folder / "prompts.parquet", ["prompt_id"])["prompt_id"]
    return dict(zip([*responses, *prompts], [*texts.responses(), *texts.prompts()], strict=True))
