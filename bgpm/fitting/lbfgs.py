"""Maximum a posteriori of any model by L-BFGS: deterministic, on all labels at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from bgpm.errors import NumericsError
from bgpm.fitting.tensors import LabelledTensors
from bgpm.networks import ScoreModule

MAX_STEPS = 5000


class DataLoss(Protocol):
    """The loss of each label, [N], from scores [N] and the data they belong to."""

    @property
    def tau(self) -> float:
        """Temperature of the likelihood: the unit of the scores, which are logits times tau."""
        ...

    def __call__(self, score: Tensor, data: LabelledTensors) -> Tensor: ...

    def curvature(self, score: Tensor, data: LabelledTensors) -> Tensor | None:
        """What stands for the second derivative in the score where that may be negative, [N] >= 0; else None."""
        ...


@dataclass(frozen=True)
class OnData:
    """The loss of given labels, as a function of their scores alone."""

    loss: DataLoss
    data: LabelledTensors

    def __call__(self, score: Tensor) -> Tensor:
        """[N] to [N]."""
        return self.loss(score, self.data)

    def curvature(self, score: Tensor) -> Tensor | None:
        """As `DataLoss.curvature`."""
        return self.loss.curvature(score, self.data)


def minimise(
    module: ScoreModule,
    data: LabelledTensors,
    loss: DataLoss,
    precision: Mapping[str, Tensor],
    *,
    centre: Tensor | None = None,
    extra: Mapping[nn.Parameter, tuple[float, float]] | None = None,
    tolerance: float = 1e-9,
) -> int:
    """Move a module's parameters to the nearest minimum of the summed loss plus a Gaussian prior's.

    Args:
        module: The model; its parameters are the start and receive the result.
        data: Labelled pairs.
        loss: The loss of each label.
        precision: Prior precision of each parameter by name, broadcast to its shape; other names are ignored.
        centre: Centre of the prior, all parameters in one vector; zero by default.
        extra: Scalar parameters of the loss, with mean and precision of their priors.
        tolerance: Relative change of the objective at which to stop.

    Returns:
        Steps taken.

    Raises:
        NumericsError: If it does not converge.
    """
    from scipy.optimize import minimize

    extra = extra or {}
    parameters = [*module.parameters(), *extra]
    alpha = [precision[name].expand_as(p).flatten() for name, p in module.named_parameters()]
    middle = [torch.zeros(sum(map(len, alpha)), dtype=torch.float64) if centre is None else centre]
    for mean, strength in extra.values():
        alpha.append(torch.tensor([strength]))
        middle.append(torch.tensor([mean]))
    # in units of the prior's standard deviation, where the prior's curvature is 1 for every parameter
    scale, middle = torch.cat(alpha).double().rsqrt(), torch.cat(middle).double()

    def objective(z: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(z)
        vector_to_parameters(middle + scale * at, parameters)
        with torch.enable_grad():
            value = loss(module(data.response_a, data.response_b, data.prompt), data).sum()
            gradient = parameters_to_vector(torch.autograd.grad(value, parameters))
        return (value.detach() + at.square().sum() / 2).item(), (scale * gradient + at).numpy()

    start = ((parameters_to_vector(parameters).detach() - middle) / scale).numpy()
    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS, "ftol": tolerance, "gtol": 1e-6},
    )
    # status 2 is a line search at the limit of rounding: as good a minimum as there is
    if found.status == 1 or not np.isfinite(found.fun):
        raise NumericsError(
            f"L-BFGS did not converge on {len(data)} labels after {found.nit} steps ({found.message}); "
            "set a larger prior_precision"
        )
    vector_to_parameters(middle + scale * torch.from_numpy(found.x), parameters)
    return int(found.nit)
