"""General preference model, s = v_i' A v_j with v = W phi (arXiv:2410.02197), and ours that contains Bradley-Terry.

With ``bt_block`` the first block of v is (r, 1): its second coordinate is the constant 1, so that the
model without further blocks is exactly Bradley-Terry. Further blocks are free, start switched off, and
are switched on by the posterior when held-out comparisons ask for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from bgpm.models import Model

if TYPE_CHECKING:
    import torch

    from bgpm.networks import GeneralPreference


class Gpm(Model):
    """Settings of the general preference model.

    Attributes:
        dim: d, the even dimension of the embedding, the Bradley-Terry block included.
        bt_block: The first block is (r, 1); the other (d - 2) / 2 are cyclic blocks, added by forward
            selection (`bgpm.fitting.cyclic_blocks`).
            False gives the model as published: d / 2 cyclic blocks, all on.
        bias: v = W phi + b. Only without ``bt_block``, where centred features leave no other way to express
            a transitive preference; decoder states, which have a large common part, do without.
        normalize: ``none``; ``mean`` puts v on the unit sphere; ``sphere`` does the same and, under the
            amortized posterior, projects the samples too (they differ under that posterior only).
        prompt_gates: Weigh the blocks by a softmax of the prompt's features, times the number of blocks.
    """

    kind: Literal["gpm"] = "gpm"
    dim: int = Field(default=6, ge=2, multiple_of=2)
    bt_block: bool = True
    bias: bool = True
    normalize: Literal["none", "mean", "sphere"] = "none"
    prompt_gates: bool = False

    @model_validator(mode="after")
    def _a_constant_cannot_be_normalised(self) -> Gpm:
        if self.bt_block and self.normalize != "none":
            raise ValueError(
                f"bt_block keeps a constant coordinate, which normalize: {self.normalize} would destroy; "
                "set bt_block: false or normalize: none"
            )
        return self

    @property
    def cyclic_blocks(self) -> int:
        return self.dim // 2 - self.bt_block

    @property
    def contains_bt(self) -> bool:
        return self.bt_block

    def build(self, in_features: int, *, generator: torch.Generator, blocks: int | None = None) -> GeneralPreference:
        from bgpm.networks import GeneralPreference

        return GeneralPreference(
            in_features,
            blocks=self.cyclic_blocks if blocks is None else blocks,
            bt_block=self.bt_block,
            bias=self.bias and not self.bt_block,
            normalize=self.normalize != "none",
            prompt_gates=self.prompt_gates,
            generator=generator,
        )
