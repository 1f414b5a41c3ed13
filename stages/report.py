"""Stage report: how many labels the acquisition function saved, as tables, curves and one page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from bgpm.errors import StateError
from bgpm.evaluation import AuditSettings
from bgpm.evaluation.arm import Arm, read_arm, read_optional
from bgpm.evaluation.benchmark import rule_in_words
from bgpm.evaluation.outlook import outlook
from bgpm.evaluation.plan import are_audited, looks_of
from bgpm.evaluation.result import pool_result, study
from bgpm.oracles import Oracle
from bgpm.reporting import ReportSettings
from bgpm.reporting.acquired import read_pool_tables
from bgpm.reporting.costs import read_costs
from bgpm.reporting.expectations import ToCome, next_batch
from bgpm.reporting.figure import draw
from bgpm.reporting.page import costs_page, page
from bgpm.reporting.pool import draw_pool
from bgpm.reporting.summary import as_csv, metrics, plot_csv, report_json, report_markdown
from bgpm.sections import RoundSettings, Sections
from bgpm.stage import (
    ARMS,
    DATA,
    POOL,
    REPORTS,
    TIMINGS,
    TRUTH,
    generator,
    read_params,
    round_dir,
    run,
    whole_folder,
    write_json,
    write_text,
)
from bgpm.values import read_json


class Report(Sections):
    goal: str
    acquisition: str
    baseline: str
    rounds: list[RoundSettings]
    oracle: Oracle
    audit: AuditSettings
    report: ReportSettings
    xstest: str = Field(alias="benchmark.xstest_weights")


def main() -> None:
    params = read_params()
    settings = Report.of(params)
    names = [settings.acquisition, settings.baseline]
    last = settings.rounds[-1].next
    arms = {name: arm_of(name, last) for name in names}
    goal, texts = settings.goal, read_pool_tables(POOL)
    if goal == "model" and not arms[names[0]].measured:
        raise StateError(
            f"{round_dir(names[0], last)}: no held-out labels yet, so there is no curve to report on; label some with "
            "`bgpm annotate --heldout`, then run `dvc repro` again"
        )
    result = study(
        arms[names[0]],
        arms[names[1]] if len(arms) > 1 else None,
        target=settings.report.target,
        resamples=settings.report.resamples,
        rng=generator("report"),
    )
    of_pool = int((texts.pairs["split"] == "pool").sum())
    audit, paid = settings.audit, settings.oracle.paid
    second = pool_result(
        result.arms,
        of_pool,
        audit=audit if are_audited(audit, goal, paid=paid) else None,
        looks=looks_of(audit, len(settings.rounds), paid=paid),
        resamples=settings.report.resamples,
        rng=generator("report", "pool"),
    )
    result = replace(result, pool=second, goal=goal)
    outlooks = {
        arm.name: outlook(arm.labels, arm.trials.curves, of_pool, generator("report", "outlook", arm.name))
        for arm in arms.values()
        if arm.measured
    }
    left = result.arms[0].labels[-1] < of_pool
    to_come = ToCome(
        outlooks,
        next_batch(names[0], last, by_people=params["oracle"] == "human") if left else None,
        (round_dir(names[0], last) / "model").as_posix(),
    )
    summary = read_optional(TRUTH / "summary.json")
    benchmark = {"path": params["benchmark"]["path"]} | summary.get("benchmark", {})
    rule = _rule(arms[names[0]], benchmark, settings.xstest)
    write_text(REPORTS / "label_efficiency.csv", as_csv(arms.values()))
    write_json(REPORTS / "label_efficiency.json", report_json(result, outlooks, rule))
    write_text(REPORTS / "label_efficiency.md", report_markdown(result, to_come, benchmark, rule))
    write_json(REPORTS / "metrics.json", metrics(result))
    with whole_folder(REPORTS / "plots") as folder:
        for arm in arms.values():
            write_text(folder / f"{arm.name}.csv", plot_csv(arm))
    draw(result, REPORTS / "label_efficiency")
    draw_pool(result.arms, result.pool, REPORTS / "pool_labels")
    html = page(
        result,
        texts,
        summary=summary.get("pool", {}),
        baselines=read_optional(DATA / "baselines.json"),
        params=params,
        params_text=Path("params.yaml").read_text(encoding="utf-8"),
        to_come=to_come,
        benchmark=benchmark,
        rule=rule,
    )
    write_text(REPORTS / "index.html", html)
    # DVC does not know this page: no two runs take the same time.
    write_text(REPORTS / "costs.html", costs_page(read_costs(TIMINGS, names, last)))


def arm_of(name: str, last: int) -> Arm:
    """What was measured along an arm up to its last round."""
    arm = read_arm(name, round_dir(name, last))
    return replace(arm, stands=read_json(ARMS / f"{name}.json")["acquisition"]) if name == "auto" else arm


def _rule(arm: Arm, benchmark: Mapping[str, Any], xstest: str) -> str:
    """How the benchmark was scored, in words; empty where the prepare stage left no summary."""
    subsets = [name.removeprefix("subset:") for _, name, _ in arm.values if name.startswith("subset:")]
    return rule_in_words(benchmark["rule"], subsets, xstest) if "rule" in benchmark else ""


if __name__ == "__main__":
    run(main)
