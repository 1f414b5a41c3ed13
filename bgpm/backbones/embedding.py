"""Load a frozen backbone and embed texts with it, every layer kept.

Why every layer: a sentence encoder's last layer is trained to forget what makes an answer good;
earlier layers still know. The states of a layer are averaged over the answer's own tokens, read in the
context of the prompt (`pooling: mean`), or taken at the last token (`pooling: last`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from bgpm.backbones import BackboneSettings
from bgpm.errors import DataError, NumericsError, WeightsError

if TYPE_CHECKING:
    import torch

log = logging.getLogger("bgpm")

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Tokens:
    """One tokenised text.

    Attributes:
        ids: Token ids, special tokens included.
        start: Position of the first token that is pooled: the answer's first, or of a prompt alone the first
            after an opening special token. What a chat template puts between turns is part of a prompt.
        stop: One past the last pooled token; a closing special token is left out of a mean.
        cut_prompt, cut_answer: How many tokens truncation removed.
    """

    ids: list[int]
    start: int
    stop: int
    cut_prompt: int = 0
    cut_answer: int = 0


@dataclass(frozen=True)
class Backbone:
    """A loaded model with its tokeniser and how to pool its states."""

    model: Any
    tokenizer: Any
    pooling: str
    max_tokens: int

    @property
    def layers(self) -> int:
        """Hidden states a forward pass gives: embeddings and every layer's output."""
        return self.model.config.get_text_config().num_hidden_layers + 1

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return self.model.config.get_text_config().hidden_size


def resolve(path: str) -> str:
    """Folder or hub id that ``path`` means.

    Raises:
        WeightsError: If ``package:NAME`` names a package that is not installed or carries no model.
    """
    if not path.startswith("package:"):
        return path
    name = path.removeprefix("package:")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # of a parent package; or no name at all
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"backbone.path: the package {name!r} is not installed; run `make install`")
    root = Path(spec.submodule_search_locations[0])
    configs = sorted(root.rglob("config.json"), key=lambda p: len(p.parts))
    folders = [c.parent for c in configs if (c.parent / "model.safetensors").exists()]
    if not folders:
        raise WeightsError(
            f"backbone.path: the package {name!r} at {root} carries no config.json beside model.safetensors"
        )
    return str(folders[0])


def verify(folder: str, sha256: str) -> None:
    """Compare the weights with the promised hash.

    Raises:
        WeightsError: If model.safetensors is absent or has another hash.
    """
    weights = Path(folder) / "model.safetensors"
    if not weights.exists():
        raise WeightsError(f"backbone.sha256 is set but {weights} does not exist; set it to null to skip the check")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise WeightsError(
            f"{weights}: wrong weights: expected SHA-256 {sha256}, got {found}; "
            "reinstall the package, or set backbone.sha256 to null if you mean these weights"
        )


def load_backbone(settings: BackboneSettings) -> Backbone:
    """The frozen model, in evaluation mode, on a GPU if there is one.

    Raises:
        WeightsError: If it cannot be found or loaded, if its weights are not the promised ones, or if weights or the
            tokeniser's vocabulary are missing, for which `transformers` would take random or empty ones.
    """
    folder = resolve(settings.path)
    if settings.sha256 is not None:
        verify(folder, settings.sha256)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    local = Path(folder).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=local)
        model, loading = AutoModel.from_pretrained(
            folder, dtype=getattr(torch, settings.dtype), local_files_only=local, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise WeightsError(
            f"backbone.path: {settings.path!r} cannot be loaded as a hub id or a folder: {error}"
        ) from error
    random = sorted(name for name in loading["missing_keys"] if "pooler" not in name)  # a pooler is never read
    if random:
        raise WeightsError(
            f"backbone.path: {settings.path!r} lacks {len(random)} weights of its model, the first is {random[0]}; "
            "config.json and weights are not of one model"
        )
    words = model.config.get_text_config().vocab_size
    if 2 * len(tokenizer) < words:
        raise WeightsError(
            f"backbone.path: the tokeniser of {settings.path!r} knows {len(tokenizer)} tokens, its model {words}; "
            "add the tokeniser's files (tokenizer.json) to the folder"
        )
    model.eval().requires_grad_(False)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    encoder = not is_causal(model)
    pooling = settings.pooling if settings.pooling != "auto" else ("mean" if encoder else "last")
    # Both: a RoBERTa has two position embeddings more than it has positions.
    limits = getattr(model.config.get_text_config(), "max_position_embeddings", None), tokenizer.model_max_length
    room = min(settings.max_tokens, *(limit for limit in limits if limit))
    log.info("backbone %s: %s, %s pooling, at most %d tokens", settings.path, type(model).__name__, pooling, room)
    return Backbone(model, tokenizer, pooling, room)


def is_causal(model: Any) -> bool:
    """Whether tokens see only what is before them: every model that is not trained on masked tokens."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model.config.get_text_config().model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def tokens(backbone: Backbone, messages: Messages, answer: str | None) -> Tokens:
    """Token ids of a conversation and an answer to it, or of the conversation alone.

    Prompt and answer are tokenised apart and joined, so that the boundary is exact. A chat template is
    used where the tokeniser has one; otherwise turns read ``Human: ...`` and ``Assistant: ...``, and a
    single user turn stands as it is for an encoder. An opening special token stays when the prompt is cut.
    Of an answer, and of a prompt without template, what is spelt like a special token is read as plain text.

    Raises:
        DataError: If the chat template refuses the conversation; some know no system turn.
    """
    tok = backbone.tokenizer
    causal = is_causal(backbone.model)
    if getattr(tok, "chat_template", None):
        prompt_ids = _templated(tok, messages, answer)
        head = prompt_ids[:1] if prompt_ids[:1] == [tok.bos_token_id] else []
        prompt_ids = prompt_ids[len(head) :]
        ending = tok.eos_token_id
    else:
        plain = not causal and len(messages) == 1
        text = messages[0]["content"] if plain else transcript(messages)
        if causal and answer is not None:
            text += "\n\nAssistant:"
            answer = " " + answer
        prompt_ids = _plain(tok, text)
        opening = tok.bos_token_id if causal else tok.cls_token_id
        ending = tok.eos_token_id if causal else tok.sep_token_id
        head = [opening] if opening is not None else []
    closing = [ending] if ending is not None else []
    between = [] if causal else closing
    if answer is None:
        room = backbone.max_tokens - len(head) - len(closing)
        kept = prompt_ids[-room:]
        ids = [*head, *kept, *closing]
        return Tokens(ids, len(head), len(head) + max(len(kept), 1), len(prompt_ids) - len(kept))
    answer_ids = _plain(tok, answer)
    room = backbone.max_tokens - len(head) - len(between) - len(closing)
    kept_answer = answer_ids[:room]
    left = room - len(kept_answer)
    kept_prompt = prompt_ids[len(prompt_ids) - min(left, len(prompt_ids)) :]
    ids = [*head, *kept_prompt, *between, *kept_answer, *closing]
    # Of an empty answer the last token speaks: the closing one, where there is one.
    start = min(len(head) + len(kept_prompt) + len(between), len(ids) - 1)
    stop = start + max(len(kept_answer), 1)
    return Tokens(ids, start, stop, len(prompt_ids) - len(kept_prompt), len(answer_ids) - len(kept_answer))


def _plain(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text in which nothing is a special token."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def _templated(tokenizer: Any, messages: Messages, answer: str | None) -> list[int]:
    """Ids of a conversation in the tokeniser's own chat template, ready for an answer if there is one."""
    from jinja2 import TemplateError

    try:
        encoded = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=answer is not None, return_dict=True
        )
    except TemplateError as error:
        roles = ", ".join(m["role"] for m in messages)
        raise DataError(
            f"the backbone's chat template refuses a conversation of {roles}: {error}; "
            "leave such prompts out of the pool, or take a backbone whose template knows them"
        ) from error
    return list(encoded["input_ids"])


def transcript(messages: Messages) -> str:
    """A conversation as plain text."""
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "\n\n".join(f"{names.get(m['role'], m['role'])}: {m['content']}" for m in messages)


def batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Rows of texts of like length, longest first, each batch at most ``max_tokens`` with its padding."""
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batch: list[int] = []
    for row in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def embed(
    backbone: Backbone,
    texts: Sequence[tuple[Messages, str | None]],
    out: np.ndarray,
    *,
    batch_tokens: int = 4096,
    title: str = "embed",
) -> dict[str, int]:
    """Pooled states of every layer, written to ``out`` float32 [n, layers, width].

    A text's vector does not depend on what else is in its batch, nor on the order of the texts, beyond
    rounding of the forward pass (about 3e-7).

    Args:
        texts: Conversations with an answer each, or with None for the conversation alone.
        out: Array to fill; a memory map for large pools.
        batch_tokens: Tokens a forward pass, padding included.

    Returns:
        How many texts lost tokens of the prompt or of the answer to ``max_tokens``, and tokens in all.

    Raises:
        NumericsError: If a state is not finite; names the text's row.
    """
    import torch

    items = [tokens(backbone, messages, answer) for messages, answer in texts]
    pad = backbone.tokenizer.pad_token_id or 0
    device = next(backbone.model.parameters()).device
    with torch.inference_mode(), tqdm(total=len(items), desc=title, unit="text", disable=None) as progress:
        for rows in batches([len(t.ids) for t in items], batch_tokens):
            chunk = [items[row] for row in rows]
            width = max(len(t.ids) for t in chunk)
            ids = torch.tensor([t.ids + [pad] * (width - len(t.ids)) for t in chunk], device=device)
            mask = torch.tensor([[1] * len(t.ids) + [0] * (width - len(t.ids)) for t in chunk], device=device)
            states = backbone.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            pooled = _pool(states, chunk, backbone.pooling).cpu().numpy()
            bad = np.flatnonzero(~np.isfinite(pooled).all((1, 2)))
            if len(bad):
                raise NumericsError(
                    f"{title}: the backbone's states of text {rows[bad[0]]} are not finite; "
                    "the weights are damaged, or backbone.dtype is too narrow for them: set it to float32"
                )
            out[rows] = pooled
            progress.update(len(rows))
    return {
        "texts": len(items),
        "tokens": sum(len(t.ids) for t in items),
        "prompts_cut": sum(t.cut_prompt > 0 for t in items),
        "answers_cut": sum(t.cut_answer > 0 for t in items),
    }


def _pool(states: Sequence[torch.Tensor], chunk: Sequence[Tokens], pooling: str) -> torch.Tensor:
    """[B, layers, width] in float32 from one [B, T, width] a layer."""
    import torch

    if pooling == "last":
        last = torch.tensor([len(t.ids) - 1 for t in chunk], device=states[0].device)
        rows = torch.arange(len(chunk), device=states[0].device)
        return torch.stack([s[rows, last].float() for s in states], dim=1)
    position = torch.arange(states[0].shape[1], device=states[0].device)
    start = torch.tensor([[t.start] for t in chunk], device=states[0].device)
    stop = torch.tensor([[t.stop] for t in chunk], device=states[0].device)
    weight = ((position >= start) & (position < stop)).float()
    weight = weight / weight.sum(1, keepdim=True)
    return torch.stack([torch.einsum("bt,btw->bw", weight, s.float()) for s in states], dim=1)
