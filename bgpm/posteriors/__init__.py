"""Posteriors: the uncertainty of each score.

One file a posterior, found by its name (see `bgpm.registry`). `Posterior.fit` turns a model, features
and labels into a `Fitted`, which gives moments, samples and a pair kernel, and is saved as safetensors
plus JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from bgpm.errors import ConfigError
from bgpm.fitting import Fitted
from bgpm.registry import Component, member
from bgpm.types import Comparisons, Features, Uncertainty

if TYPE_CHECKING:
    from bgpm.models import Model

Positive = Annotated[float, Field(gt=0)]


class Posterior(Component):
    """Base of every posterior's settings.

    Class attributes:
        gives: What its fitted models know of scores.
        weighs: Whether labels may have weights.
    """

    gives: ClassVar[Uncertainty] = "kernel"
    weighs: ClassVar[bool] = True

    def check(self, model: Model) -> None:
        """Refuse a model that this posterior cannot be put on, before any work; `fit` does so too.

        Raises:
            ConfigError: Naming a choice that makes sense.
        """

    def check_trained(self) -> None:
        """Refuse a backbone that is trained (training.mode other than frozen), before any work.

        Raises:
            ConfigError: Naming the setting that belongs to a frozen one.
        """

    def for_goal(self, goal: str, model: Model, *, frozen: bool) -> Posterior:
        """These settings with what the goal decides: here nothing.

        Args:
            goal: ``model`` or ``pool``.
            model: What is trained.
            frozen: Whether the features stay as they are (training.mode: frozen).
        """
        return self

    def fit(self, model: Model, features: Features, data: Comparisons, *, seed: int) -> Fitted:
        """Train from scratch on all labels; deterministic given ``seed``."""
        raise NotImplementedError

    @classmethod
    def fitted_class(cls) -> type[Fitted]:
        """The `Fitted` that this posterior makes, for loading."""
        raise NotImplementedError


class MapSettings(Posterior):
    """Loss, prior and the choice of cyclic blocks.

    Attributes:
        prior_precision: Precision of the weights' Gaussian prior: a number; ``heldout``, by cross-validated
            likelihood; or ``evidence``, by Laplace evidence, which is a little better with very few labels and
            too sure with many where the reward is not linear. Models without a Bradley-Terry block have no
            usable evidence (their gauge volume is not counted): ``evidence`` is ``heldout`` for them. ``goal`` is
            ``evidence`` where the goal is the pool, whose labels are acquired near the boundary and look like coin
            tosses to each other, else ``heldout``.
        tau: Temperature of P(a better) = sigmoid(s / tau), or ``heldout`` to calibrate it by
            cross-validated likelihood, or ``learn`` to fit it with the weights, which needs a normalised
            embedding: elsewhere the weights' own scale does its work. Calibrated it is by labels alone, whatever the
            loss; with margins it cannot be learnt, since a loss with margins falls as tau grows.
        loss: ``logistic``; ``rao_kupper``, ties as an outcome of their own; ``regression`` to the margin.
        margin: Use the margin column: the winner has to lead by it (logistic), or the score is to equal it
            (regression). Every label must have one.
        tie_width: Half-width of the band of ties under ``rao_kupper``, in units of the score.
        error_rate: e, the share of labels that name the wrong response: P(label says a) = e + (1 - 2 e)
            sigmoid(s / tau). A number, or ``heldout`` to choose it by cross-validated likelihood. Labels that
            contradict a large score then pull on it less; ``regression`` knows no wrong winner.
        folds: Folds of every cross-validation.
        fold_by: Which labels choose what is chosen by cross-validation: those of other prompts (``prompt``), or other
            labels whatever their prompt (``pair``), which was worse on labelled pools too where labels are acquired.
        precision_by_block: Choose one prior precision for each block of features, together, in place of one for all;
            the features have to say what their blocks are. For models that contain Bradley-Terry.
        response_variance: sigma^2, prior variance of a deviation u_r that each response has beside what its features
            say, in units of the score squared: s = f(phi_i, phi_j) + u_i - u_j. 0 is the model without them. ``auto``
            chooses it by the likelihood of every label under the other labels, ``evidence`` by Laplace evidence, which
            finds it too small where a response stands in few labels. Held-out choice on acquired labels is biased:
            labels near the decision boundary look like coin tosses, and what they say of their neighbours is not what
            random labels say (measured: 0.6 to 2.3 where the truth is 1). Where no response stands in
            two labels both are 0, and the summary says so. For models that contain Bradley-Terry. ``goal`` is ``auto``
            where the goal is the pool and such a model stands on frozen features, else 0.
        importance_exponent: Of labels that were drawn with known probabilities (selection: weighted): the power to
            which their importance weights are raised. 1 keeps them, 0 counts each label once, ``auto`` chooses 1, 1/2
            or 0 by importance-weighted cross-validation (`bgpm.fitting.importance`).
    """

    prior_precision: Literal["goal", "evidence", "heldout"] | Positive = "goal"
    tau: Literal["heldout", "learn"] | Positive = 1.0
    loss: Literal["logistic", "rao_kupper", "regression"] = "logistic"
    margin: bool = False
    tie_width: Positive = 0.5
    error_rate: Literal["heldout"] | Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    folds: int = Field(default=5, ge=2)
    fold_by: Literal["prompt", "pair"] = "prompt"
    precision_by_block: bool = False
    response_variance: Literal["goal", "auto", "evidence"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = "goal"
    importance_exponent: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"

    @property
    def effects(self) -> Literal["auto", "evidence"] | float:
        """How `response_variance` is chosen; 0.0 where it is left to a goal that nobody named."""
        return 0.0 if self.response_variance == "goal" else self.response_variance

    @property
    def takes_effects(self) -> bool:
        """Whether these settings, whatever the model, can have response effects."""
        return True

    @property
    def mixed(self) -> bool:
        """Whether there is more than one prior precision, or an effect of each response."""
        return self.precision_by_block or self.effects != 0

    @model_validator(mode="after")
    def _several_precisions_are_chosen(self) -> MapSettings:
        if self.precision_by_block and not isinstance(self.prior_precision, str):
            raise ValueError(
                "precision_by_block chooses the precisions: set prior_precision: goal, heldout or evidence, or "
                "precision_by_block: false"
            )
        return self

    @model_validator(mode="after")
    def _the_loss_and_the_margin_agree(self) -> MapSettings:
        if self.loss == "regression" and not self.margin:
            raise ValueError("loss: regression regresses to the margin column; set margin: true")
        if self.loss == "rao_kupper" and self.margin:
            raise ValueError("loss: rao_kupper takes no margin; set margin: false")
        if self.loss == "regression" and self.error_rate != 0:
            raise ValueError("loss: regression knows no wrong winner; set error_rate: 0.0")
        if self.margin and self.tau == "learn":
            raise ValueError(
                "tau: learn has no optimum where the loss has margins: it falls as tau grows; set tau: heldout or a "
                "number, or margin: false"
            )
        return self

    def for_goal(self, goal: str, model: Model, *, frozen: bool) -> MapSettings:
        """These settings with ``prior_precision`` and ``response_variance`` as the goal has them."""
        decided: dict[str, str | float] = {}
        if self.prior_precision == "goal":
            decided["prior_precision"] = {"model": "heldout", "pool": "evidence"}[goal]
        if self.response_variance == "goal":
            possible = model.contains_bt and frozen and self.takes_effects
            decided["response_variance"] = "auto" if goal == "pool" and possible else 0.0
        return self.model_copy(update=decided)

    def check(self, model: Model) -> None:
        if self.tau == "learn" and getattr(model, "normalize", "none") == "none":
            raise ConfigError(
                f"params.yaml: posteriors.{self.kind}.tau: 'learn' needs a model whose scores have a fixed scale, "
                f"but {model.kind} scales them by its weights; use a number or 'heldout', "
                "or model gpm with bt_block: false and normalize: mean"
            )
        if self.mixed and not model.contains_bt:
            name = "precision_by_block: false" if self.precision_by_block else "response_variance: 0.0"
            raise ConfigError(
                f"params.yaml: posteriors.{self.kind}: prior precisions by block and response effects belong to models "
                f"that contain Bradley-Terry, which {model.kind} with its present settings does not; use model: bt, or "
                f"gpm with bt_block: true, or set {name}"
            )

    def check_trained(self) -> None:
        for name, on, off in (
            ("response_variance", self.effects != 0, "0.0"),
            ("precision_by_block", self.precision_by_block, "false"),
        ):
            if on:
                raise ConfigError(
                    f"params.yaml: posteriors.{self.kind}.{name}: belongs to a frozen backbone, whose features stay as "
                    f"they are; set training.mode: frozen, or {name}: {off}"
                )


def load(stem: Path) -> Fitted:
    """A fitted model from ``stem.safetensors`` and ``stem.json``.

    Raises:
        StateError: If a file is missing, damaged, or not as it was written.
    """
    from bgpm.fitting import saved

    description = saved.describe(stem)
    return member(Posterior, description["posterior"]).fitted_class().restore(stem, description)
