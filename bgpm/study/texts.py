"""Texts of the study's pools. What embeds them reads this and no code of the loop: it takes half an hour."""

from __future__ import annotations

import json
from pathlib import Path

from bgpm.data.tables import read_table

Text = tuple[list[dict[str, str]], str | None]  # a conversation, and an answer or nothing


def texts(folder: Path) -> tuple[list[str], list[Text]]:
    """Names of a set's texts, and the texts: answers in the context of their prompts, then the prompts alone."""
    prompts = read_table(folder / "prompts.parquet", ["prompt_id", "messages"])
    responses = read_table(folder / "responses.parquet", ["response_id", "prompt", "text"])
    conversations = [json.loads(text) for text in prompts["messages"]]
    answers = [(conversations[row], text) for row, text in zip(responses["prompt"], responses["text"], strict=True)]
    return [*responses["response_id"], *prompts["prompt_id"]], [*answers, *((c, None) for c in conversations)]
