"""Stage plan: what can be known before any label: whether the pool has as many pairs as the seed set, how many inferred
pairs are audited, whether that can ever certify the target, and whether a prompt has more responses than response
effects take."""

from __future__ import annotations

import logging

import numpy as np
from pydantic import Field

from bgpm.data.tables import read_table
from bgpm.errors import DataError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.plan import acquired_by, are_audited, audits_of, begin_of, check_enough
from bgpm.models import Model
from bgpm.oracles import Oracle
from bgpm.posteriors import MapSettings, Posterior
from bgpm.registry import member
from bgpm.sections import RoundSettings, Sections
from bgpm.selection import StartSettings
from bgpm.sizes import Size
from bgpm.stage import PLAN, POOL, run, write_json

log = logging.getLogger("bgpm")


class Plan(Sections):
    goal: str
    model: Model
    posterior: Posterior
    training: str = Field(alias="training.mode")
    oracle: str
    audit: AuditSettings
    batch_size: Size
    rounds: list[RoundSettings]
    start: StartSettings


def main() -> None:
    settings = Plan.read()
    audit, goal, paid = settings.audit, settings.goal, member(Oracle, settings.oracle, "oracle").paid
    pairs = read_table(POOL / "pairs.parquet", ["split", "prompt", "response_a", "response_b"])
    on_offer = pairs["split"] == "pool"
    pool = int(on_offer.sum())
    settings.start.number(pool)
    acquired = acquired_by(settings.start.labels, settings.batch_size, len(settings.rounds), pool)
    if paid and goal == "pool":
        check_enough(audit, acquired, pool, paid=paid)
    posterior = settings.posterior.for_goal(goal, settings.model, frozen=settings.training == "frozen")
    if isinstance(posterior, MapSettings) and posterior.effects != 0:
        _foresee({name: column[on_offer] for name, column in pairs.items()}, acquired[-1], posterior.kind)
    # Only what labelling depends on: one more round, or another target, asks nobody anew.
    size = audits_of(audit, pool) if are_audited(audit, goal, paid=paid) else 0
    write_json(PLAN, {"audits": size, "begin": begin_of(audit)})


def _foresee(pairs: dict[str, np.ndarray], most_labels: int, posterior: str) -> None:
    """Warn of a prompt with so many responses that training will stop once labels join them."""
    from bgpm.fitting.incidence import MOST_RESPONSES, Incidence  # loads torch

    if most_labels < MOST_RESPONSES:  # so many responses take as many labels less one to join
        return
    try:
        Incidence.of(pairs["response_a"], pairs["response_b"]).check(
            pairs["prompt"], f"posteriors.{posterior}.response_variance"
        )
    except DataError as error:
        log.warning("training stops once as many are labelled: %s", error)


if __name__ == "__main__":
    run(main)
