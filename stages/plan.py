"""Stage plan: how many inferred pairs are audited, and whether that can ever certify the target; before any label."""

from __future__ import annotations

from bgpm.data.tables import read_table
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.plan import are_audited, audits_of, begin_of, check_enough
from bgpm.oracles import oracle_of
from bgpm.registry import parse
from bgpm.selection import StartSettings
from bgpm.sizes import pairs_of
from bgpm.stage import PLAN, POOL, read_params, run, setting, write_json


def main() -> None:
    params = read_params()
    audit = parse(AuditSettings, setting(params, "audit"), "audit")
    goal, paid = setting(params, "goal"), oracle_of(params).paid
    pool = int((read_table(POOL / "pairs.parquet", ["split"])["split"] == "pool").sum())
    if paid and goal == "pool":
        start = parse(StartSettings, setting(params, "start"), "start").labels
        batch, rounds = pairs_of(setting(params, "batch_size"), pool), len(setting(params, "rounds"))
        check_enough(audit, [pairs_of(start, pool) + batch * k for k in range(rounds + 1)], pool, paid=paid)
    # Only what labelling depends on: one more round, or another target, asks nobody anew.
    size = audits_of(audit, pool) if are_audited(audit, goal, paid=paid) else 0
    write_json(PLAN, {"audits": size, "begin": begin_of(audit)})


if __name__ == "__main__":
    run(main)
