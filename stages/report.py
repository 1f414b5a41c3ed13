"""Stage report: how many labels the acquisition function saved, as tables, curves and one page."""

from __future__ import annotations

from pathlib import Path

from bgpm.registry import parse
from bgpm.reporting import ReportSettings
from bgpm.reporting.costs import read_costs
from bgpm.reporting.figure import draw
from bgpm.reporting.inputs import read_arm, read_optional
from bgpm.reporting.page import page
from bgpm.reporting.purchases import read_pool
from bgpm.reporting.result import study
from bgpm.reporting.tables import as_csv, as_json, as_markdown, metrics, plot_csv
from bgpm.stage import (
    DATA,
    POOL,
    REPORTS,
    TIMINGS,
    TRUTH,
    generator,
    read_params,
    round_dir,
    run,
    setting,
    whole_folder,
    write_json,
    write_text,
)


def main() -> None:
    params = read_params()
    settings = parse(ReportSettings, setting(params, "report"), "report")
    names = [setting(params, "acquisition"), setting(params, "baseline")]
    last = setting(params, "rounds")[-1]["next"]
    arms = {name: read_arm(name, round_dir(name, last)) for name in names}
    result = study(arms[names[0]], arms[names[1]] if len(arms) > 1 else None, settings, generator("report"))
    write_text(REPORTS / "label_efficiency.csv", as_csv(arms.values()))
    write_json(REPORTS / "label_efficiency.json", as_json(result))
    write_text(REPORTS / "label_efficiency.md", as_markdown(result))
    write_json(REPORTS / "metrics.json", metrics(result))
    with whole_folder(REPORTS / "plots") as folder:
        for arm in arms.values():
            write_text(folder / f"{arm.name}.csv", plot_csv(arm))
    draw(result, REPORTS / "label_efficiency")
    html = page(
        result,
        read_pool(POOL),
        summary=read_optional(TRUTH / "summary.json").get("pool", {}),
        baselines=read_optional(DATA / "baselines.json"),
        costs=read_costs(TIMINGS, names, last),
        params=params,
        params_text=Path("params.yaml").read_text(encoding="utf-8"),
    )
    write_text(REPORTS / "index.html", html)


if __name__ == "__main__":
    run(main)
