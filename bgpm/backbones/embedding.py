"""Load a frozen backbone and embed texts with it, every layer kept.

Why every layer: a sentence encoder's last layer is trained to forget what makes a response good;
earlier layers still know. The states of a layer are averaged over the response's own tokens, read in the
context of the prompt (`pooling: mean`), or taken at the last token (`pooling: last`).
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from tqdm import tqdm

from bgpm.backbones import BackboneSettings
from bgpm.backbones.attention import resolve_attention
from bgpm.backbones.gguf import cache_folder, converted, sha256_of
from bgpm.backbones.likelihood import check as check_likelihood
from bgpm.backbones.likelihood import require_decoder, summary, token_likelihood, without_prompt
from bgpm.errors import ConfigError, DataError, NumericsError, ShapeError, WeightsError
from bgpm.launch import local_rank_world

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from bgpm.backbones.packing import Pack, Packing

log = logging.getLogger("bgpm")

Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Tokens:
    """One tokenised text.

    Attributes:
        ids: Token ids, special tokens included.
        start: Position of the first token that is pooled: the response's first, or of a prompt alone the first
            after an opening special token. What a chat template puts between turns is part of a prompt.
        stop: One past the last pooled token; a closing special token is left out of a mean.
        cut_prompt, cut_answer: How many tokens truncation removed.
        moved: Whether a system turn was folded or dropped.
    """

    ids: list[int]
    start: int
    stop: int
    cut_prompt: int = 0
    cut_response: int = 0
    moved: bool = False


@dataclass(frozen=True)
class Backbone:
    """A loaded model with its tokeniser and how texts are read and states pooled.

    Attributes:
        model, tokenizer: As transformers loads them.
        pooling: ``mean`` or ``last``.
        max_tokens: Of prompt and response.
        template_date: What a chat template gets for today.
        system_turns: As in `BackboneSettings`.
        language_model: The model with the layer that predicts words, of a decoder whose likelihoods are asked for.
    """

    model: Any
    tokenizer: Any
    pooling: str
    max_tokens: int
    template_date: str = "2024-07-26"
    system_turns: Literal["refuse", "fold", "drop"] = "refuse"
    language_model: Any = None

    @property
    def lm_head(self) -> Any:
        """From a state of the last layer to logits of the next word; None where likelihoods are not asked for."""
        return None if self.language_model is None else self.language_model.get_output_embeddings()

    @property
    def layers(self) -> int:
        """Hidden states a forward pass gives: embeddings and every layer's output."""
        return self.model.config.get_text_config().num_hidden_layers + 1

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return self.model.config.get_text_config().hidden_size

    @property
    def pad(self) -> int:
        """Token that fills a batch. It is masked and never read, so a tokeniser without one may have any."""
        pad = self.tokenizer.pad_token_id
        return pad if pad is not None else (self.tokenizer.eos_token_id or 0)


def _padding_position(model: Any) -> int | None:
    """The padding token's place among position embeddings: a RoBERTa counts positions from behind it."""
    places = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
    return next((found for m in places if (found := getattr(m, "padding_idx", None)) is not None), None)


def resolve(path: str, sha256: str | None = None) -> str:
    """Folder or hub id that ``path`` means.

    Args:
        path: As in `BackboneSettings`.
        sha256: Expected of the GGUF file of a package that carries one.

    Raises:
        WeightsError: If ``package:NAME`` names a package that is not installed or carries no model, or as
            `gguf.converted`.
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
    if folders:
        return str(folders[0])
    files = sorted(root.rglob("*.gguf"), key=lambda p: (len(p.parts), p))
    if not files:
        raise WeightsError(
            f"backbone.path: the package {name!r} at {root} carries no config.json beside model.safetensors, and no "
            "file of GGUF"
        )
    return str(converted(files[0], sha256))


def verify(folder: str, sha256: str) -> None:
    """Compare the weights with the promised hash.

    Raises:
        WeightsError: If model.safetensors is absent or has another hash.
    """
    weights = Path(folder) / "model.safetensors"
    if not weights.exists():
        raise WeightsError(f"backbone.sha256 is set but {weights} does not exist; set it to null to skip the check")
    sha256_of(weights, sha256)


def on_disk(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A float32 array in a new .npy file, its space taken at once: a disk that is full is found out here.

    A sparse file would meet it in the middle of an assignment, where the system kills the process.

    Raises:
        OSError: If the disk has no room for it.
    """
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return out


@dataclass(frozen=True)
class ModelSource:
    """A model before its weights are read, which may be more than memory holds twice.

    Attributes:
        settings: Where it comes from and how it is read.
        folder: Folder or hub id.
        config, tokenizer: As transformers reads them.
        device: Of this process.
        attention: transformers' name of the attention it is to run with.
    """

    settings: BackboneSettings
    folder: str
    config: Any
    tokenizer: Any
    device: str
    attention: str

    def read(
        self,
        *,
        dtype: str,
        language_model: bool = False,
        advice: str = "config.json and weights are not of one model",
        **options: Any,
    ) -> Any:
        """The frozen model in evaluation mode, on the CPU where ``options`` name no other place.

        Args:
            dtype: Of the weights.
            language_model: With the head that predicts words.
            advice: What to say where weights are missing.
            options: More for ``from_pretrained``.

        Raises:
            WeightsError: If it cannot be loaded, if its weights are pickled, or if weights are missing, for which
                `transformers` would take random or empty ones.
        """
        import torch
        from transformers import AutoModel, AutoModelForCausalLM

        auto = AutoModelForCausalLM if language_model else AutoModel
        _refuse_pickles(Path(self.folder))
        with _loading(self.settings.path):
            found = auto.from_pretrained(
                self.folder, dtype=getattr(torch, dtype), attn_implementation=self.attention, output_loading_info=True,
                use_safetensors=True,
                **_place(self.settings, self.folder), **options,
            )  # fmt: skip
        model, loading = cast("tuple[PreTrainedModel, dict[str, set[str]]]", found)  # so with output_loading_info
        random = sorted(name for name in loading["missing_keys"] if "pooler" not in name)  # a pooler is never read
        if random:
            raise WeightsError(
                f"backbone.path: {self.settings.path!r} lacks {len(random)} weights of its model, the first is "
                f"{random[0]}; {advice}"
            )
        return model.eval().requires_grad_(False)

    def backbone(self, model: Any) -> Backbone:
        """The model with its tokeniser and how to pool its states."""
        encoder = not is_causal(self)
        pooling = self.settings.pooling if self.settings.pooling != "auto" else ("mean" if encoder else "last")
        positions = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if positions and (behind := _padding_position(model)) is not None:
            positions -= behind + 1
        limits = positions, self.tokenizer.model_max_length
        room = min(self.settings.max_tokens, *(limit for limit in limits if limit))
        name = type(model).__name__
        log.info("backbone %s: %s, %s pooling, at most %d tokens", self.settings.path, name, pooling, room)
        if not encoder and not getattr(self.tokenizer, "chat_template", None):
            log.info("no chat template: turns read `Human: ...` and `Assistant: ...`")
        if writes_date(self.tokenizer):
            log.info("the chat template writes the date: it is %s for every text (backbone.template_date)",
                     self.settings.template_date)  # fmt: skip
        return Backbone(model, self.tokenizer, pooling, room, self.settings.template_date, self.settings.system_turns)


def load_backbone(
    settings: BackboneSettings, *, likelihood: bool = False, letters: bool = False, asks: str | None = None
) -> Backbone:
    """The frozen model, in evaluation mode, on this process's GPU if there is one.

    Args:
        settings: Which, and how it reads.
        likelihood: Of a decoder: `embed` gives likelihoods of responses too.
        letters: Of a decoder: `bgpm.backbones.pairs` reads the letters' logits too.
        asks: The setting that needs a decoder, for messages; by default the one of features that does.

    Raises:
        ConfigError: As `open_source`; if likelihoods are asked for that cannot be read.
        WeightsError: As `open_source`, and as `Source.read`.
    """
    source = open_source(settings)
    if not likelihood and not letters:
        return source.backbone(source.read(dtype=settings.dtype).to(source.device))
    asks = asks or ("features.blocks: likelihood" if likelihood else "features.pair_states.letters")
    require_decoder(is_causal(source), settings.path, asks)
    whole = source.read(dtype=settings.dtype, language_model=True).to(source.device)
    backbone = replace(source.backbone(whole.base_model), language_model=whole)
    from bgpm.backbones.packing import some_words  # imports torch

    check_likelihood(backbone, some_words(backbone)[:12], asks)
    return backbone


def open_source(
    settings: BackboneSettings, *, computes: str | None = None, narrower: str = "set backbone.dtype to bfloat16"
) -> ModelSource:
    """Configuration and tokeniser of a model, checked, and the attention it is to run with.

    Args:
        computes: What it computes in, where that is not ``backbone.dtype``: attention has to know that.
        narrower: As in `resolve_attention`.

    Raises:
        ConfigError: If a GPU or an attention is asked for that cannot be, or the model is neither encoder nor decoder.
        WeightsError: If it cannot be found, if its weights are not the promised ones, or if the tokeniser's vocabulary
            is missing, for which `transformers` would take an empty one.
    """
    folder = resolve(settings.path, settings.sha256)
    if settings.sha256 is not None and not Path(folder).is_relative_to(cache_folder()):  # there it is of the GGUF file
        verify(folder, settings.sha256)
    from transformers import MODEL_MAPPING, AutoConfig, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    device, place = own_device(settings.device), _place(settings, folder)
    with _loading(settings.path):
        config = AutoConfig.from_pretrained(folder, **place)
    if config.is_encoder_decoder:
        raise ConfigError(
            f"params.yaml: backbone.path: {settings.path!r} is a {config.model_type}, an encoder with a decoder; "
            "take an encoder or a decoder"
        )
    kind = MODEL_MAPPING.get(type(config), None)
    attention, why = resolve_attention(
        settings.attention, kind, device=device, dtype=computes or settings.dtype, narrower=narrower
    )
    log.info("attention: %s (%s)", attention, why)
    with _loading(settings.path):
        tokenizer = AutoTokenizer.from_pretrained(folder, **place)
    words = config.get_text_config().vocab_size
    if 2 * len(tokenizer) < words:
        raise WeightsError(
            f"backbone.path: the tokeniser of {settings.path!r} knows {len(tokenizer)} tokens, its model {words}; "
            "add the tokeniser's files (tokenizer.json) to the folder"
        )
    return ModelSource(settings, folder, config, tokenizer, device, attention)


def _place(settings: BackboneSettings, folder: str) -> dict[str, Any]:
    """What every loader of transformers is told."""
    place = {"local_files_only": Path(folder).is_dir(), "trust_remote_code": settings.trust_remote_code}
    return place if Path(folder).is_dir() else place | {"revision": settings.revision}


def _refuse_pickles(folder: Path) -> None:
    """Refuse a folder whose only weights are pickles: reading one can run any code."""
    pickles = sorted(path for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise WeightsError(
            f"backbone.path: {pickles[0]}: pickled weights, which can run any code when they are read; convert them to "
            "safetensors where you trust them: in Python, transformers.AutoModel.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER)"
        )


def own_device(asked: str) -> str:
    """The device of this process for ``backbone.device``: of several on one machine each has its own GPU.

    Raises:
        ConfigError: If there is no GPU for it where one is asked for.
    """
    import torch

    rank, _ = local_rank_world()
    if asked == "cpu" or (asked == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise ConfigError(
            "params.yaml: backbone.device: cuda is asked for, but torch sees no GPU; set it to auto or cpu, "
            "or install a CUDA build of torch"
        )
    if rank >= torch.cuda.device_count():
        raise ConfigError(
            f"params.yaml: launcher.processes: process {rank} of this machine has no GPU of its own, there are "
            f"{torch.cuda.device_count()}; set it to at most that"
        )
    return f"cuda:{rank}"


@contextmanager
def _loading(path: str) -> Iterator[None]:
    """What a loader raises becomes one error that says what to do about it."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        message = " ".join(str(error).split())
        fix = "check that the folder holds one whole model: config.json, weights and tokeniser"
        if "safetensors" in message and "does not appear to have" in message:
            fix = "it has no weights as safetensors, and pickled ones (.bin) are not read; convert them to safetensors"
        elif "trust_remote_code" in message:
            fix = "set backbone.trust_remote_code to true if you trust its authors: their code will run here"
        elif not Path(resolve(path)).is_dir():
            fix = (
                "check the name; a hub id needs a network (and no HF_HUB_OFFLINE=1), a gated one `hf auth login` too; "
                "without a network give a local folder"
            )
        raise WeightsError(
            f"backbone.path: {path!r} cannot be loaded as a hub id or a folder: {message}; {fix}"
        ) from error


def is_causal(model: Any) -> bool:
    """Whether tokens see only what is before them: every model that is not trained on masked tokens."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model.config.get_text_config().model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def tokens(backbone: Backbone, messages: Messages, response: str | None) -> Tokens:
    """Token ids of a conversation and a response to it, or of the conversation alone.

    Prompt and response are tokenised apart and joined, so that the boundary is exact. A chat template is
    used where the tokeniser has one; otherwise turns read ``Human: ...`` and ``Assistant: ...``, and a
    single user turn stands as it is for an encoder. An opening special token stays when the prompt is cut.
    Of a response, and of a prompt without template, what is spelt like a special token is read as plain text.

    Raises:
        DataError: If the chat template refuses the conversation; some know no system turn.
    """
    tok = backbone.tokenizer
    causal, moved = is_causal(backbone.model), False
    if getattr(tok, "chat_template", None):
        prompt_ids, moved = _templated(backbone, messages, response)
        head = prompt_ids[:1] if prompt_ids[:1] == [tok.bos_token_id] else []
        prompt_ids = prompt_ids[len(head) :]
        ending = tok.eos_token_id
    else:
        plain = not causal and len(messages) == 1
        text = messages[0]["content"] if plain else plain_transcript(messages)
        if causal and response is not None:
            text += "\n\nAssistant:"
            response = " " + response
        prompt_ids = plain_ids(tok, text)
        opening = tok.bos_token_id if causal else tok.cls_token_id
        ending = tok.eos_token_id if causal else tok.sep_token_id
        head = [opening] if opening is not None else []
    closing = [ending] if ending is not None else []
    between = [] if causal else closing
    if response is None:
        room = backbone.max_tokens - len(head) - len(closing)
        kept = prompt_ids[-room:]
        ids = [*head, *kept, *closing]
        return Tokens(ids, len(head), len(head) + max(len(kept), 1), len(prompt_ids) - len(kept), moved=moved)
    response_ids = plain_ids(tok, response)
    room = backbone.max_tokens - len(head) - len(between) - len(closing)
    kept_response = response_ids[:room]
    left = room - len(kept_response)
    kept_prompt = prompt_ids[len(prompt_ids) - min(left, len(prompt_ids)) :]
    ids = [*head, *kept_prompt, *between, *kept_response, *closing]
    # Of an empty response the last token speaks: the closing one, where there is one.
    start = min(len(head) + len(kept_prompt) + len(between), len(ids) - 1)
    stop = start + max(len(kept_response), 1)
    return Tokens(ids, start, stop, len(prompt_ids) - len(kept_prompt), len(response_ids) - len(kept_response), moved)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text in which nothing is a special token."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def writes_date(tokenizer: Any) -> bool:
    """Whether the tokeniser's chat template asks for today's date."""
    template = getattr(tokenizer, "chat_template", None)
    texts = template.values() if isinstance(template, dict) else [template]
    return any("strftime_now" in text or "date_string" in text for text in texts if isinstance(text, str))


@cache
def on_day(template: str, day: str) -> str:
    """A chat template for which it is always this day, at midnight: its clock becomes a macro of the template."""
    moment = datetime.fromisoformat(day)
    known = [f"%{flag}{code}" for code in "aAbBcdeHIjmMpSUwWxXyYFTD" for flag in ("-", "")]
    said = "".join(f"|replace({json.dumps(code)}, {json.dumps(moment.strftime(code))})" for code in known)
    return f"{{% macro strftime_now(format) %}}{{{{ format{said} }}}}{{% endmacro %}}{template}"


def _templated(backbone: Backbone, messages: Messages, response: str | None) -> tuple[list[int], bool]:
    """Ids of a conversation in the tokeniser's own chat template, ready for a response if there is one, and whether a
    system turn was folded or dropped for it."""
    from jinja2 import TemplateError

    tok, moved, own = backbone.tokenizer, False, {}
    while True:
        try:
            if writes_date(tok):
                own = {"chat_template": on_day(tok.get_chat_template(), backbone.template_date)}
            encoded = tok.apply_chat_template(
                list(messages), add_generation_prompt=response is not None, return_dict=True, **own
            )
            return list(encoded["input_ids"]), moved
        except (TemplateError, ValueError, TypeError) as error:  # a ValueError: several templates, none the default
            roles = [m["role"] for m in messages]
            if "system" in roles and backbone.system_turns != "refuse":
                messages, moved = without_system(messages, fold=backbone.system_turns == "fold"), True
                continue
            fix = "leave such prompts out of the pool, or take a backbone whose template knows them"
            if "system" in roles:
                fix = "set backbone.system_turns to fold or drop, or take a backbone whose template knows them"
            raise DataError(
                f"the backbone's chat template refuses a conversation of {', '.join(roles)}: {error}; {fix}"
            ) from error


def without_system(messages: Messages, *, fold: bool) -> list[dict[str, str]]:
    """A conversation without system turns; folded, each stands above the user turn that follows it, a blank line
    between, and one that no user turn follows is a user turn itself."""
    kept: list[dict[str, str]] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting += [message["content"]] if fold else []
        elif message["role"] == "user" and waiting:
            kept.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            kept.append(dict(message))
    return [*kept, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else kept


def plain_transcript(messages: Messages) -> str:
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
    out: np.ndarray | None,
    *,
    batch_tokens: int = 4096,
    title: str = "embed",
    group: Any = None,
    names: Sequence[str] | None = None,
    likelihood: np.ndarray | None = None,
) -> dict[str, int]:
    """Pooled states of every layer, written to ``out`` float32 [n, layers, width].

    A text's vector does not depend on what else is in its batch, nor on the order of the texts, beyond rounding of the
    forward pass (about 3e-7). Where `packing.find` finds it exact, batches have no padding, and in a decoder the
    responses to a prompt share it.

    Several processes, each with the whole model and all texts, share the batches. What is in a batch does not depend on
    how many they are: with as many threads each, the result is the same to the bit.

    Args:
        texts: Conversations with a response each, or with None for the conversation alone.
        out: Array to fill; a memory map for large pools. None on every process of a group but its first.
        batch_tokens: Tokens a forward pass, padding included.
        likelihood: Array [n, 7] to fill with what `LIKELIHOODS` says of each response, if the backbone was loaded
            for that; None on every process of a group but its first. The texts all have a response then.
        group: Process group that shares the work, see `bgpm.launch.process_group`; None for this process alone.
        names: What messages call each text; its row by default.

    Returns:
        How many texts lost tokens of the prompt or of the response to ``max_tokens``, and tokens in all; and where
        there are any, how many had a system turn folded or dropped.

    Raises:
        DataError: If the chat template refuses conversations; counts them and names the first.
        NumericsError: If a state is not finite; names the text's row.
    """
    import torch.distributed as dist

    rank = 0 if group is None else dist.get_rank(group)
    items = _tokenised(backbone, texts, names or [f"row {row}" for row in range(len(texts))], title)
    with _evaluating(backbone.model):
        work = _work(backbone, batch_tokens, title, group)
        for rows, pooled, numbers in work.over(items):
            assert out is not None
            out[rows] = pooled
            if likelihood is not None:
                likelihood[rows, :-1] = numbers
        if backbone.lm_head is not None and (rank or likelihood is not None):
            apart = [without_prompt(backbone, item) for item in items]
            for rows, _, numbers in replace(work, title=f"{title} without prompts", states=False).over(apart):
                assert likelihood is not None
                likelihood[rows, -1] = likelihood[rows, 0] - numbers[:, 0]
    return counted(items, title, backbone, said=rank == 0)


def batched(
    backbone: Backbone, items: Sequence[Tokens], *, batch_tokens: int, title: str, group: Any
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Rows of texts and their pooled states [n, layers, width], batch by batch on the first process, as `embed` reads
    them; the model is in evaluation mode meanwhile."""
    with _evaluating(backbone.model):
        yield from _work(backbone, batch_tokens, title, group).over(items)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """The model in evaluation mode, and as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _work(backbone: Backbone, batch_tokens: int, title: str, group: Any) -> _Work:
    """How this model reads texts, said on the first process."""
    import torch.distributed as dist

    from bgpm.backbones import packing

    packed, why = packing.find(backbone, causal=is_causal(backbone.model))
    if group is None or dist.get_rank(group) == 0:
        log.info("%s: %s", title, packed.described if packed else f"padded batches: {why}")
    return _Work(backbone, packed, batch_tokens, group, title)


def counted(items: Sequence[Tokens], title: str, backbone: Backbone, *, said: bool) -> dict[str, int]:
    """How many texts and tokens there are and what was cut off or moved, as `embed` gives them."""
    counts = {
        "texts": len(items),
        "tokens": sum(len(t.ids) for t in items),
        "prompts_cut": sum(t.cut_prompt > 0 for t in items),
        "responses_cut": sum(t.cut_response > 0 for t in items),
    }
    if moved := sum(t.moved for t in items):
        counts["system_turns_moved"] = moved
        if said:
            done = {"fold": "folded", "drop": "dropped"}[backbone.system_turns]
            log.warning("%s: the chat template knows no system turn: of %d texts it was %s (backbone.system_turns)",
                        title, moved, done)  # fmt: skip
    if said and (counts["prompts_cut"] or counts["responses_cut"]):
        log.warning(
            "%s: of %d texts %d lost the beginning of their prompt and %d the end of their response: over %d tokens",
            title, len(items), counts["prompts_cut"], counts["responses_cut"], backbone.max_tokens,
        )  # fmt: skip
    return counts


@dataclass(frozen=True)
class _Work:
    """How texts go through the model.

    Attributes:
        packed: How to read packs; None for padded batches.
        group: Processes that share the batches.
        states: Whether states are asked for, and not likelihoods alone.
    """

    backbone: Backbone
    packed: Packing | None
    batch_tokens: int
    group: Any
    title: str
    states: bool = True

    def over(self, items: Sequence[Tokens]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Rows, their states and their likelihoods, [n, layers, width] and [n, 6], batch by batch on the first process;
        the others work and give nothing. What is not asked for is empty."""
        import torch
        import torch.distributed as dist

        from bgpm.backbones import packing

        group = self.group
        rank, world = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
        chunks: list[Any]
        if self.packed is not None:
            chunks = list(packing.packs(items, self.batch_tokens, share=self.packed.share))
        else:
            chunks = list(batches([len(t.ids) for t in items], self.batch_tokens))
        progress = tqdm(total=len(items), desc=self.title, unit="text", disable=None if rank == 0 else True)
        with progress:
            for first in range(0, len(chunks), world):
                found: list[Any] = [None]
                if first + rank < len(chunks):
                    with torch.inference_mode():
                        rows, pooled, numbers = self._batch(items, chunks[first + rank])
                    _check_finite(rows, pooled, self.title)
                    found = [(rows, pooled, numbers)]
                if group is not None:
                    every: list[Any] | None = [None] * world if rank == 0 else None
                    dist.gather_object(found[0], every, group=group, group_dst=0)
                    found = every or []
                for rows, pooled, numbers in filter(None, found if rank == 0 else []):
                    yield rows, pooled, numbers
                    progress.update(len(rows))

    def _batch(self, items: Sequence[Tokens], chunk: Any) -> tuple[list[int], np.ndarray, np.ndarray]:
        from bgpm.backbones import packing

        backbone = self.backbone
        if self.packed is not None:
            states = packing.forward(backbone, self.packed, chunk)
            rows = [row for row, *_ in chunk.texts]
            pooled = _pooled_of_pack(backbone, states, chunk) if self.states else np.empty((len(rows), 0, 0))
            return rows, pooled, self._numbers(states[-1], [items[row] for row in rows], packing.predictors(chunk))
        texts = [items[row] for row in chunk]
        inputs, marks = collate(backbone, texts)
        states = backbone.model(**inputs, output_hidden_states=True).hidden_states
        width = inputs["input_ids"].shape[1]
        before = [[n * width + at - 1 for at in range(t.start, t.stop)] for n, t in enumerate(texts)]
        pooled = _pooled_of_padded(states, marks) if self.states else np.empty((len(chunk), 0, 0))
        return chunk, pooled, self._numbers(states[-1].flatten(0, 1), texts, before)

    def _numbers(self, states: torch.Tensor, texts: Sequence[Tokens], before: Sequence[Sequence[int]]) -> np.ndarray:
        """Likelihoods [n, 6] from states [tokens, width] and where each response's tokens are predicted; a text's very
        first token is not."""
        import torch

        head = self.backbone.lm_head
        if head is None:
            return np.empty((len(texts), 0))
        known = [[(at, t.ids[t.start + n]) for n, at in enumerate(some) if t.start + n > 0]
                 for t, some in zip(texts, before, strict=True)]  # fmt: skip
        at, ids = (torch.tensor([pair[n] for some in known for pair in some], device=states.device) for n in (0, 1))
        said, entropy = (x.cpu().numpy() for x in token_likelihood(head, states[at.long()], ids.long()))
        stops = np.cumsum([len(some) for some in known])[:-1]
        return np.stack([summary(*both) for both in zip(np.split(said, stops), np.split(entropy, stops), strict=True)])


def _tokenised(
    backbone: Backbone, texts: Sequence[tuple[Messages, str | None]], names: Sequence[str], title: str
) -> list[Tokens]:
    """The tokens of each text.

    Raises:
        DataError: If the chat template refuses some; counts them and names the first five.
    """
    items, refused, why = [], [], None
    for (messages, response), name in zip(texts, names, strict=True):
        try:
            items.append(tokens(backbone, messages, response))
        except DataError as error:
            refused.append(name)
            why = why or error
    if why is not None:
        shown = ", ".join(refused[:5]) + (", ..." if len(refused) > 5 else "")
        raise DataError(f"{title}: {len(refused)} of {len(texts)} texts ({shown}): {why}") from why
    return items


def _check_finite(rows: Sequence[int], pooled: np.ndarray, title: str) -> None:
    bad = np.flatnonzero(~np.isfinite(pooled).all((1, 2)))
    if len(bad):
        raise NumericsError(
            f"{title}: the backbone's states of text {rows[bad[0]]} are not finite; "
            "the weights are damaged, or backbone.dtype is too narrow for them: set it to float32"
        )


def _pooled_of_pack(backbone: Backbone, states: Sequence[torch.Tensor], pack: Pack) -> np.ndarray:
    """[n, layers, width] from one [tokens, width] a layer."""
    import torch

    spans = [(last, last + 1) if backbone.pooling == "last" else (start, stop) for _, start, stop, last in pack.texts]
    layers = [torch.stack([s[start:stop].float().mean(0) for start, stop in spans]) for s in states]
    return torch.stack(layers, 1).cpu().numpy()


def _pooled_of_padded(states: Sequence[torch.Tensor], marks: torch.Tensor) -> np.ndarray:
    """[n, layers, width] from one [n, T, width] a layer."""
    import torch

    return torch.stack([pool(s, marks) for s in states], dim=1).cpu().numpy()


def collate(
    backbone: Backbone, chunk: Sequence[Tokens], side: Literal["right", "left"] = "right"
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One padded batch on the model's device: what its forward takes, and which tokens speak for each text.

    Returns:
        ``input_ids`` and ``attention_mask`` [B, T], with ``position_ids`` where padding on the left shifts them; and
        marks [B, T] for `pool`: the pooled tokens of a mean, or the last token.

    Raises:
        ShapeError: If padding is asked for on the left of an encoder, whose positions would be wrong there.
    """
    import torch

    left = side == "left"
    if left and not is_causal(backbone.model):
        raise ShapeError("an encoder's batches are padded on the right: it counts positions from the first token")
    device = next(backbone.model.parameters()).device
    width = max(len(t.ids) for t in chunk)
    ids = torch.full((len(chunk), width), backbone.pad)
    mask = torch.zeros_like(ids)
    marks = torch.zeros(ids.shape, dtype=torch.bool)
    for row, t in enumerate(chunk):
        first = width - len(t.ids) if left else 0
        start, stop = (len(t.ids) - 1, len(t.ids)) if backbone.pooling == "last" else (t.start, t.stop)
        ids[row, first : first + len(t.ids)] = torch.tensor(t.ids)
        mask[row, first : first + len(t.ids)] = 1
        marks[row, first + start : first + stop] = True
    inputs = {"input_ids": ids, "attention_mask": mask}
    if left:
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    return {name: value.to(device) for name, value in inputs.items()}, marks.to(device)


def pool(state: torch.Tensor, marks: torch.Tensor) -> torch.Tensor:
    """Mean over the marked tokens, float32 [B, width], of states [B, T, width] in any precision."""
    import torch

    weight = marks.float()
    return torch.einsum("bt,btw->bw", weight / weight.sum(1, keepdim=True), state.float())
