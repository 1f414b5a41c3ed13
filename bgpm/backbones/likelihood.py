"""How likely a decoder finds a response: log-probabilities of its tokens, as numbers of the response.

They come of the forward that gives the states: `embed` reads the last layer's states at the tokens before, and the
model's own last layer (`Backbone.lm_head`) makes logits of them. Encoders are not trained to predict the next token, so
they have none.

In nats, of the tokens of a response given its prompt (`bgpm.types.LIKELIHOODS`): mean, sum, first, least and last
log-probability, mean entropy of the predictions, and ``gain``: the mean less that of the response behind an opening
token alone. Shapes: m tokens of a response, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bgpm.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from bgpm.backbones.embedding import Backbone, Tokens

AT_ONCE = 2**24  # logits that are in memory at a time, 64 MiB


def token_likelihood(head: Any, states: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each token and entropy of what was predicted there, nats, float32 [m] each.

    Args:
        head: From a state to V logits.
        states: [m, width], of the token before each, after the model's last norm.
        ids: int64 [m], the tokens that came.
    """
    import torch

    found = []
    step = max(1, AT_ONCE // head.weight.shape[0])
    for at in range(0, len(ids), step):
        logs = head(states[at : at + step].to(head.weight.dtype)).float().log_softmax(-1)
        said = logs.gather(1, ids[at : at + step, None])[:, 0]
        found.append((said, -(logs.exp() * logs).sum(-1)))
    said, entropy = zip(*found, strict=True) if found else ([states.new_empty(0)], [states.new_empty(0)])
    return torch.cat(list(said)), torch.cat(list(entropy))


def summary(said: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """The first six of `LIKELIHOODS` of one response, float64 [6]; NaN where none of its tokens was predicted."""
    if not len(said):
        return np.full(6, np.nan)
    said, entropy = said.astype(np.float64), entropy.astype(np.float64)
    return np.array([said.mean(), said.sum(), said[0], said.min(), said[-1], entropy.mean()])


def without_prompt(backbone: Backbone, item: Tokens) -> Tokens:
    """A response's tokens behind one opening special token alone, the text's own first where it has one."""
    from bgpm.backbones.embedding import Tokens

    tok = backbone.tokenizer
    opening = tok.bos_token_id if tok.bos_token_id is not None else tok.eos_token_id
    ids = [opening if opening is not None else item.ids[0], *item.ids[item.start :]]
    return Tokens(ids, 1, 1 + item.stop - item.start)


def require_decoder(causal: bool, path: str, asks: str = "features.blocks: likelihood") -> None:
    """ConfigError unless tokens see only what is before them; ``asks`` is the setting that needs a decoder."""
    if not causal:
        raise ConfigError(
            f"params.yaml: {asks} asks which token comes next, and {path!r} is an encoder, which does not say; set "
            f"backbone.path to a decoder, or take {asks.split()[-1]} out"
        )


def check(backbone: Backbone, words: Sequence[int], asks: str = "features.blocks: likelihood") -> None:
    """Compare log-probabilities with those of the language model's own logits, on one short text.

    Some models cap or scale their logits behind the last layer; what is read here would not be theirs.

    Raises:
        ConfigError: If they differ.
    """
    import torch

    model, head = backbone.language_model, backbone.lm_head
    ids = torch.tensor([list(words)], device=next(model.parameters()).device)
    with torch.inference_mode():
        output = model(input_ids=ids, output_hidden_states=True)
    ours, _ = token_likelihood(head, output.hidden_states[-1][0, :-1], ids[0, 1:])
    theirs = output.logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    allowed = 1e-3 if head.weight.dtype == torch.float32 else 0.1
    if not torch.allclose(ours, theirs, rtol=allowed, atol=allowed):
        raise ConfigError(
            f"params.yaml: {asks} cannot be read of {type(model).__name__}: it does more to its logits than its last "
            f"layer; take {asks.split()[-1]} out, or another decoder"
        )
