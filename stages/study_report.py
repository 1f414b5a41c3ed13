"""Stage of the study: savings, curves and one page from the results of all loops."""

from __future__ import annotations

import numpy as np

from bgpm.data.sheets import csv_text
from bgpm.data.tables import concatenate, read_table, write_table
from bgpm.stage import REPORTS, STUDY, read_params, run, write_text
from bgpm.study import LABELLED, PARAMS, StudyPlan, feature_sets, fits, read_plan
from bgpm.study.labelled_page import draw_shares, draw_whole, whole_markdown
from bgpm.study.labelled_table import COLUMNS as WHOLE_COLUMNS
from bgpm.study.labelled_table import rows as whole_rows
from bgpm.study.labelled_table import whole_outcomes
from bgpm.study.savings_page import draw_curves, draw_savings, study_markdown
from bgpm.study.table import COLUMNS, outcomes, row

OUT = REPORTS / "study"


def main() -> None:
    plan = read_plan(read_params(PARAMS))
    found = list(outcomes(plan, STUDY))
    savings = (row(o, c).values() for o in found if o.arm != o.plan.baseline for c in o.comparisons)
    write_text(OUT / "savings.csv", csv_text(COLUMNS, savings))
    curves = []
    for o in found:
        table = read_table(STUDY / "loops" / o.pool / o.arm / "curve.parquet")
        place = {name: np.full(len(table["seed"]), getattr(o, name), object) for name in ("pool", "arm")}
        curves.append(place | table)
    write_table(OUT / "curves.parquet", concatenate(curves))
    for name, arms in plan.figures.items():
        draw_curves(found, arms, OUT / name)
    draw_savings(found, plan.arms, plan.headline, OUT / "savings")
    write_text(OUT / "index.md", study_markdown(plan, found))
    report_features(plan)
    report_labelled(plan)


def report_features(plan: StudyPlan) -> None:
    """What features are worth, and how models on them are best fitted: two tables and a page."""
    lines = list(feature_sets.rows(plan, STUDY / "feature_sets"))
    write_text(OUT / "features.csv", csv_text(feature_sets.COLUMNS, (line.values() for line in lines)))
    ways = list(fits.rows(plan, STUDY / "fits"))
    write_text(OUT / "fits.csv", csv_text(fits.COLUMNS, (line.values() for line in ways)))
    page = [*feature_sets.markdown(plan, lines), *fits.markdown(plan, ways)]
    write_text(OUT / "features.md", "\n".join(page))


def report_labelled(plan: StudyPlan) -> None:
    """The study of labelled pools: a table, a figure and a page of its own."""
    found = list(whole_outcomes(plan.labelled, LABELLED, plan.resamples))
    lines = (line.values() for outcome in found for line in whole_rows(outcome))
    write_text(OUT / "pool_labels.csv", csv_text(WHOLE_COLUMNS, lines))
    draw_whole(plan.labelled, found, OUT / "pool_labels")
    draw_shares(plan.labelled, found, OUT / "pool_shares")
    write_text(OUT / "pool_labels.md", "\n".join(whole_markdown(plan.labelled, found)))


if __name__ == "__main__":
    run(main)
