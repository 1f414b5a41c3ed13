"""The modules that compute scores and, for weight posteriors, the two factors of their gradient.

Shapes: N pairs, p features, d embedding dimensions, D rows of the last layer's weights, q its inputs.
Everything is float64: heads are small, and a posterior's linear algebra needs the digits. While a backbone is trained
with them they compute in float32, whatever DeepSpeed keeps their weights in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bgpm import functional as F
from bgpm.errors import ShapeError


@dataclass(frozen=True)
class Design:
    """Gradient of scores in the last layer's weights W [D, q], kept as factors: g_n = a_n (x) x_n + b_n (x) y_n.

    Attributes:
        a, b: float64 [N, D], derivative of the score in W x and in W y.
        x, y: float64 [N, q], the last layer's inputs for the first and the second response.
    """

    a: Tensor
    x: Tensor
    b: Tensor
    y: Tensor

    def gradients(self) -> Tensor:
        """g, [N, D * q], W flattened row by row."""
        if self.a.shape[1] == 1:
            return self.a * self.x + self.b * self.y
        return (self.a[:, :, None] * self.x[:, None, :] + self.b[:, :, None] * self.y[:, None, :]).flatten(1)


class ScoreModule(nn.Module, ABC):
    """A preference model: features of two responses (and of their prompt) to a score in logits times tau."""

    weight: nn.Parameter  # the last layer's weights, [D, q]

    @property
    def reads_prompt(self) -> bool:
        """True where scores depend on the prompt's own features."""
        return False

    @abstractmethod
    def forward(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Scores [N] of features [N, p]; swapping the responses flips the sign, exactly."""

    @abstractmethod
    def design(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None = None) -> Design:
        """The gradient of every score in `weight`, all else held fixed."""


class GeneralPreference(ScoreModule):
    """v = W phi in blocks of two, the first optionally (r, 1); s = v_i' A v_j.

    Args:
        in_features: p.
        blocks: Cyclic blocks. With ``bt_block`` and none of them this is Bradley-Terry.
        bt_block: Put the block (w' phi, 1) first.
        bias: Append the constant p^1/2 to the features, as long as the average feature vector. On centred
            features a bilinear score without it has no transitive part at all.
        normalize: Divide v by its norm.
        prompt_gates: Weigh the blocks by a softmax over the prompt's features times their number, so that
            all weights start at 1; [blocks, p] gate weights start at 0.
        generator: Draws W ~ N(0, 1/p). W = 0 is a saddle of the likelihood of cyclic blocks.
    """

    def __init__(
        self,
        in_features: int,
        *,
        blocks: int,
        bt_block: bool = True,
        bias: bool = False,
        normalize: bool = False,
        prompt_gates: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        rows = 2 * blocks + bt_block
        if rows == 0:
            raise ShapeError("a general preference model needs at least one block: blocks >= 1 or bt_block=True")
        start = torch.randn(rows, in_features + bias, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(start / in_features**0.5)
        self.in_features, self.bt_block, self.bias = in_features, bt_block, bias
        self.normalize, self.blocks = normalize, blocks
        # a softmax over one block is 1 whatever the prompt says
        gated = prompt_gates and blocks + bt_block > 1
        self.gate_weight = (
            nn.Parameter(torch.zeros(blocks + bt_block, in_features, dtype=torch.float64)) if gated else None
        )

    @property
    def reads_prompt(self) -> bool:
        return self.gate_weight is not None

    def embed(self, features: Tensor) -> Tensor:
        """Embeddings v [N, d] of responses with features [N, p]."""
        return self._embed(features)[0]

    def gates(self, prompt: Tensor | None) -> Tensor | None:
        """Weights of the blocks [N, d / 2], or None where they are all 1.

        Raises:
            ShapeError: If the model has gates and the prompt's features are missing or of another dimension.
        """
        if self.gate_weight is None:
            return None
        if prompt is None or prompt.shape[-1] != self.gate_weight.shape[1]:
            got = "none" if prompt is None else f"[*, {prompt.shape[-1]}]"
            raise ShapeError(
                f"prompt gates read prompt features [*, {self.gate_weight.shape[1]}], got {got}; "
                "give the prompts' features, or set prompt_gates: false"
            )
        return torch.softmax(prompt @ self.gate_weight.T.to(prompt.dtype), -1) * len(self.gate_weight)

    def forward(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None = None) -> Tensor:
        return F.preference_score(self.embed(response_a), self.embed(response_b), self.gates(prompt))

    def design(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None = None) -> Design:
        (v_i, norm_i), (v_j, norm_j) = self._embed(response_a), self._embed(response_b)
        gates = self.gates(prompt)
        a, b = F.apply_skew(v_j, gates), -F.apply_skew(v_i, gates)
        if self.normalize:  # the derivative of u / |u| is (I - v v') / |u|
            a = (a - v_i * (v_i * a).sum(-1, keepdim=True)) / norm_i
            b = (b - v_j * (v_j * b).sum(-1, keepdim=True)) / norm_j
        if self.bt_block:  # the constant coordinate has no weights
            a, b = (torch.cat([t[:, :1], t[:, 2:]], -1) for t in (a, b))
        return Design(a, self.inputs(response_a), b, self.inputs(response_b))

    def inputs(self, features: Tensor) -> Tensor:
        """What the weights multiply: features [N, p], and the constant where there is one.

        Raises:
            ShapeError: If the number of features is not the one the model was made for.
        """
        if features.shape[-1] != self.in_features:
            raise ShapeError(
                f"this model was made for {self.in_features} features, got {features.shape[-1]}; "
                "train it again on these features"
            )
        if not self.bias:
            return features
        return torch.cat([features, features.new_full((*features.shape[:-1], 1), self.in_features**0.5)], -1)

    def linear(self, features: Tensor) -> Tensor:
        """W phi (+ b), before the constant and any normalisation, in the dtype of the features."""
        return self.inputs(features) @ self.weight.T.to(features.dtype)

    def _embed(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        u = self.linear(features)
        if self.bt_block:
            u = torch.cat([u[..., :1], torch.ones_like(u[..., :1]), u[..., 1:]], -1)
        if not self.normalize:
            return u, None
        norm = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
        return u / norm, norm


class PairNetwork(ScoreModule):
    """s = w' (h(x_i, x_j) - h(x_j, x_i)), h(x, y) = tanh(A x + B y + c).

    Args:
        in_features: p.
        hidden: Width of h.
        generator: Draws the weights, N(0, 1 / fan-in).
    """

    def __init__(self, in_features: int, hidden: int, *, generator: torch.Generator) -> None:
        super().__init__()

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64) / shape[1] ** 0.5)

        self.own = normal(hidden, in_features)
        self.other = normal(hidden, in_features)
        self.bias = nn.Parameter(torch.zeros(hidden, dtype=torch.float64))
        self.weight = normal(1, hidden)

    def _hidden(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape[-1] != self.own.shape[1]:
            raise ShapeError(
                f"this model was made for {self.own.shape[1]} features, got {x.shape[-1]}; "
                "train it again on these features"
            )
        own, other, bias = (w.to(x.dtype) for w in (self.own, self.other, self.bias))
        return torch.tanh(x @ own.T + y @ other.T + bias)

    def forward(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None = None) -> Tensor:
        return (self._hidden(response_a, response_b) - self._hidden(response_b, response_a)) @ self.weight[0].to(
            response_a.dtype
        )

    def design(self, response_a: Tensor, response_b: Tensor, prompt: Tensor | None = None) -> Design:
        one = response_a.new_ones(len(response_a), 1)
        return Design(one, self._hidden(response_a, response_b), -one, self._hidden(response_b, response_a))
