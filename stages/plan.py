"""Stage plan: how many inferred pairs are audited, and whether that can ever certify the target; before any label."""

from __future__ import annotations

from bgpm.data.tables import read_table
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.plan import are_audited, audits_of, begin_of, check_enough
from bgpm.oracles import Oracle
from bgpm.registry import member
from bgpm.sections import RoundSettings, Sections
from bgpm.selection import StartSettings
from bgpm.sizes import Size, pairs_of
from bgpm.stage import PLAN, POOL, run, write_json


class Plan(Sections):
    goal: str
    oracle: str
    audit: AuditSettings
    batch_size: Size
    rounds: list[RoundSettings]
    start: StartSettings


def main() -> None:
    settings = Plan.read()
    audit, goal, paid = settings.audit, settings.goal, member(Oracle, settings.oracle, "oracle").paid
    pool = int((read_table(POOL / "pairs.parquet", ["split"])["split"] == "pool").sum())
    if paid and goal == "pool":
        start, batch = pairs_of(settings.start.labels, pool), pairs_of(settings.batch_size, pool)
        acquired = [start + batch * k for k in range(len(settings.rounds) + 1)]
        check_enough(audit, acquired, pool, paid=paid)
    # Only what labelling depends on: one more round, or another target, asks nobody anew.
    size = audits_of(audit, pool) if are_audited(audit, goal, paid=paid) else 0
    write_json(PLAN, {"audits": size, "begin": begin_of(audit)})


if __name__ == "__main__":
    run(main)
