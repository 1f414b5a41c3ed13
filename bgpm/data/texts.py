"""Texts as `prepare` wrote them, for the backbone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bgpm.data.tables import read_table

Conversation = Sequence[dict[str, str]]  # messages, each a role and its content
Text = tuple[Conversation, str | None]  # with a response, or alone


@dataclass(frozen=True)
class TextSet:
    """The texts of a pool or benchmark.

    Attributes:
        conversations: Messages of each prompt, [Q].
        prompt_texts: Text of each prompt, [Q].
        prompt: int64 [R], each response's prompt.
        response_texts: Text of each response.
    """

    conversations: Sequence[Conversation]
    prompt_texts: np.ndarray
    prompt: np.ndarray
    response_texts: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> TextSet:
        """From the tables that `prepare` wrote."""
        prompts = read_table(folder / "prompts.parquet", ["messages", "text"])
        responses = read_table(folder / "responses.parquet", ["prompt", "text"])
        conversations = [json.loads(text) for text in prompts["messages"]]
        return cls(conversations, prompts["text"], responses["prompt"], responses["text"])

    def responses(self) -> list[Text]:
        """Each response in its conversation."""
        return [(self.conversations[row], text) for row, text in zip(self.prompt, self.response_texts, strict=True)]

    def prompts(self) -> list[Text]:
        """Each conversation alone."""
        return [(conversation, None) for conversation in self.conversations]
