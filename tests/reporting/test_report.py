"""The report stage on made-up runs: what it writes, that it repeats itself to the byte, and what it refuses."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bgpm.data.tables import read_table, write_table
from bgpm.errors import ConfigError, StateError
from bgpm.evaluation.arm import Measurement
from bgpm.registry import parse
from bgpm.reporting import ReportSettings
from bgpm.reporting.charts import every, ticks
from bgpm.reporting.summary import as_csv
from bgpm.reporting.words import count, ends, percent, points
from stages.report import main

Make = Callable[..., Path]
CURVE = "data/entropy/round-8/evaluation/curve.csv"


def metrics(root: Path) -> dict[str, float | None]:
    return json.loads((root / "reports/metrics.json").read_text(encoding="utf-8"))


def headline(root: Path) -> str:
    return json.loads((root / "reports/label_efficiency.json").read_text(encoding="utf-8"))["sentence"]


def page(root: Path) -> str:
    return (root / "reports/index.html").read_text(encoding="utf-8")


def costs(root: Path) -> str:
    return (root / "reports/costs.html").read_text(encoding="utf-8")


def test_the_report_states_the_saving_with_its_interval_everywhere_alike(reported_by_20: Path) -> None:
    root = reported_by_20
    found = metrics(root)
    assert 0.4 < found["label_savings_low"] < found["label_savings"] < found["label_savings_high"] < 0.9
    assert found["label_savings"] == pytest.approx(
        1 - found["labels_to_target"] / found["baseline_labels_to_target"], abs=1e-3
    )
    number = f"{100 * found['label_savings']:.0f}%"
    assert f'<b id="headline-number">{number}</b>' in page(root)
    assert f"{number} fewer (95% interval of the saving" in headline(root)
    assert headline(root) in (root / "reports/label_efficiency.md").read_text(encoding="utf-8")
    assert found["labels"] == 288
    assert found["aulc"] > found["baseline_aulc"]
    assert None not in found.values()


def test_the_curve_csv_holds_every_measured_number_of_both_arms(reported_run: Path) -> None:
    root = reported_run
    with (root / "reports/label_efficiency.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == ["arm", "seed", "round", "labels", "split", "section", "metric", "value"]
    for arm in ("entropy", "random"):
        with (root / f"data/{arm}/round-8/evaluation/curve.csv").open(encoding="utf-8", newline="") as file:
            measured = list(csv.DictReader(file))
        mine = [{k: v for k, v in row.items() if k != "arm"} for row in written if row["arm"] == arm]
        assert [(*row.values(),)[:-1] for row in mine] == [(*row.values(),)[:-1] for row in measured]
        for told, row in zip(mine, measured, strict=True):
            digits = 3 if row["split"] == "model" else 4
            assert float(told["value"]) == pytest.approx(float(row["value"]), rel=0.5 * 10 ** (1 - digits))
            assert len(told["value"].replace(".", "").lstrip("0-").partition("e")[0]) <= digits


def test_the_curve_csv_holds_counts_whole_and_hides_what_depends_on_the_processor() -> None:
    def of(split: str, value: float) -> str:
        arm = SimpleNamespace(name="x", rows=[Measurement(0, 1, 8, split, "all", "m", value)])
        return as_csv([arm]).splitlines()[1].rpartition(",")[2]  # type: ignore[list-item]

    assert [of("heldout", v) for v in (12345.0, 0.123456, 2 / 3, -4.0, math.nan)] == [
        "12345", "0.1235", "0.6667", "-4", ""
    ]  # fmt: skip
    assert of("model", 16.24879) == of("model", 16.24883) == "16.2"


def test_a_section_named_like_a_formula_is_none_in_the_curve_csv(finished_run: Make) -> None:
    root = finished_run()
    for path in root.glob("data/*/round-*/evaluation/curve.csv"):
        path.write_text(path.read_text(encoding="utf-8").replace(",chat,", ",=1+1,"), encoding="utf-8")
    main()
    with (root / "reports/label_efficiency.csv").open(encoding="utf-8", newline="") as file:
        sections = {row["section"] for row in csv.DictReader(file)}
    assert "'=1+1" in sections
    assert "=1+1" not in sections


def test_plots_hold_means_over_seeds(reported_run: Path) -> None:
    root = reported_run
    with (root / "reports/plots/entropy.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"labels", "heldout_accuracy", "heldout_nll", "benchmark_accuracy"} <= rows[0].keys()
    assert [int(row["labels"]) for row in rows] == list(range(32, 289, 32))
    assert float(rows[-1]["heldout_accuracy"]) == pytest.approx(metrics(root)["final_accuracy"], abs=2e-6)


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes_and_timings_enter_a_page_of_their_own_only(
    finished_run: Make, reported_run: Path
) -> None:
    def digests(root: Path) -> dict[str, str]:
        files = sorted(path for path in (root / "reports").rglob("*") if path.is_file())
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    root = finished_run()
    main()
    first = digests(root)
    assert first == digests(reported_run)
    (root / ".timings/train-entropy-1.json").write_text('{"seconds": 9, "cpu_seconds": 99, "peak_mib": 1}')
    main()
    assert {name for name, digest in digests(root).items() if digest != first[name]} == {"reports/costs.html"}
    assert not list(root.rglob("*.part"))


def test_a_target_that_is_not_reached_is_null_and_said(finished_run: Make) -> None:
    root = finished_run({"entropy": (0.3, 0.62), "random": (1.3, 0.72)})
    main()
    found = metrics(root)
    assert found["label_savings"] is None
    assert found["labels_to_target"] is None
    assert found["baseline_labels_to_target"] is not None
    assert "entropy did not reach" in headline(root)
    assert '<b id="headline-number">not reached</b>' in page(root)


@pytest.mark.slow
def test_a_slower_arm_is_said_to_need_more_labels(finished_run: Make) -> None:
    root = finished_run(
        {"entropy": (1.2, 0.72), "random": (3.0, 0.72)}, seeds=12, report={"target": 0.5, "resamples": 300}
    )
    main()
    found = metrics(root)
    assert found["label_savings_high"] < 0
    assert re.search(r"\d+% more \(95% interval", headline(root))
    assert "\N{MINUS SIGN}" in re.search(r'id="headline-number">([^<]*)<', page(root))[1]


@pytest.mark.slow
def test_equal_arms_are_not_said_to_differ(finished_run: Make) -> None:
    root = finished_run({"entropy": (1.0, 0.72), "random": (1.0, 0.72)})
    main()
    assert "do not show a difference" in headline(root) or "did not reach" in headline(root)
    low = metrics(root)["label_savings_low"]
    assert low is None or low <= 0


@pytest.mark.slow
def test_a_baseline_that_learns_nothing_gives_no_saving(finished_run: Make) -> None:
    root = finished_run({"entropy": (2.0, 0.72), "random": (1.0, 0.5501)})
    main()
    assert "no target outside the noise" in headline(root)
    assert '<b id="headline-number">no gain</b>' in page(root)


@pytest.mark.slow
def test_a_gain_that_may_be_nothing_is_said_to_be_uncertain(finished_run: Make) -> None:
    root = finished_run({"entropy": (2.0, 0.62), "random": (1.0, 0.59)})
    main()
    gain = json.loads((root / "reports/label_efficiency.json").read_text(encoding="utf-8"))["baseline_gain"]
    assert gain["interval"]["low"] < 0 < gain["value"]
    assert ("is uncertain, and every target with it" in page(root)) != ("no target outside the noise" in page(root))


def test_few_seeds_are_called_indicative_and_many_are_not(reported_run: Path, reported_by_20: Path) -> None:
    assert "Indicative only: 5 paired seeds" in page(reported_run)
    assert "Indicative only" not in page(reported_by_20)


def test_a_single_seed_makes_no_claim(finished_run: Make) -> None:
    root = finished_run(seeds=1)
    main()
    found = metrics(root)
    assert found["label_savings"] is not None
    assert (found["label_savings_low"], found["label_savings_high"]) == (None, None)
    assert "single seed, so there is no interval and no claim" in headline(root)


def test_one_arm_alone_is_described_without_a_saving(finished_run: Make) -> None:
    root = finished_run({"entropy": (2.0, 0.72)}, extras=False)
    main()
    found = metrics(root)
    assert found["final_accuracy"] is not None
    assert {k for k, v in found.items() if v is None} == {
        *("label_savings", "label_savings_low", "label_savings_high", "labels_to_target", "baseline_labels_to_target"),
        *("target", "baseline_final_accuracy", "baseline_aulc", "baseline_benchmark_accuracy"),
        *("baseline_pool_right", "pool_label_savings", "pool_labels_to_95"),
    }
    html = page(root)
    assert "Labels to target" not in html
    assert "baselines stage has not run" in html


def test_the_next_rounds_are_forecast_on_the_page_and_in_the_tables_alike(reported_by_20: Path) -> None:
    root = reported_by_20
    written = json.loads((root / "reports/label_efficiency.json").read_text(encoding="utf-8"))["outlook"]
    markdown = (root / "reports/label_efficiency.md").read_text(encoding="utf-8")
    for arm in ("entropy", "random"):
        found = written[arm]
        assert [r["labels"] for r in found["rounds"]] == [320, 352, 384, 416]
        assert all(r["low"] < r["accuracy"] < r["high"] for r in found["rounds"])
        assert found["backtest"]["next_round"]["forecasts"] == 5
        assert found["backtest"]["all_rounds"]["forecasts"] == 5 + 4 + 3 + 2 + 1
        first = found["rounds"][0]
        accuracy, low, high = (percent(first[name], 1) for name in ("accuracy", "low", "high"))
        assert f"| 320 | {accuracy} | {low} to {high} |" in markdown
        assert f"<td>{accuracy}</td><td>{low} to {high}</td>" in page(root)
        probabilities = [r["probability"] for r in found["reach"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(r["labels"] is None or r["labels"] > 0 for r in found["reach"])
    assert "out of reach" in markdown  # five points more than a curve that has levelled off
    assert "What to expect from the next rounds" in page(root)


MORE = 'dvc exp run -S "rounds=$(bgpm rounds 7)"'


@pytest.mark.parametrize(("oracle", "command"), [("recorded", MORE), ("human", f"{MORE}; bgpm annotate --run")])
def test_the_report_says_how_to_label_the_next_batch(finished_run: Make, oracle: str, command: str) -> None:
    root = finished_run(rounds=6, oracle=oracle)
    main()
    show = "bgpm batch data/entropy/round-6/batch.parquet"
    markdown = (root / "reports/label_efficiency.md").read_text(encoding="utf-8")
    assert f"The next batch: `{command}`. Its pairs: `{show}`." in markdown
    assert f"<code>{command}</code>. Its pairs:\n<code>{show}</code>" in unescape(page(root))
    assert "data/entropy/round-6/model" in markdown
    assert "<code>data/entropy/round-6/model</code>" in page(root)


def test_a_pool_with_no_pair_left_has_no_next_batch(finished_run: Make) -> None:
    root = finished_run(pool_prompts=120)
    main()
    pairs = read_table(root / "data/pool/pairs.parquet")
    assert metrics(root)["labels"] == (pairs["split"] == "pool").sum()
    markdown = (root / "reports/label_efficiency.md").read_text(encoding="utf-8")
    for said in (markdown, page(root)):
        assert "next batch" not in said
        assert "every pair of the pool is acquired" in said


def test_a_forecast_ends_where_the_pool_does_and_stays_within_0_and_1(finished_run: Make) -> None:
    root = finished_run({"entropy": (2.6, 0.99), "random": (0.8, 0.72)}, rounds=7, pool_prompts=120)  # 256 of 288
    main()
    found = json.loads((root / "reports/label_efficiency.json").read_text(encoding="utf-8"))["outlook"]["entropy"]
    assert [r["labels"] for r in found["rounds"]] == [288]
    assert all(0 <= r["low"] <= r["high"] <= 1 for r in found["rounds"])
    assert found["horizon"] == pytest.approx(288 / 256, abs=1e-6)
    assert all(r["labels"] is None or r["labels"] <= 288 - 256 for r in found["reach"])


def test_a_short_curve_says_that_there_is_no_forecast(finished_run: Make) -> None:
    root = finished_run(rounds=2)
    main()
    assert "a forecast needs 4 points of the curve, here are 3" in page(root)
    assert "a forecast needs 4 points of the curve, here are 3" in (root / "reports/label_efficiency.md").read_text()


def test_reliability_coverage_and_best_of_n_of_the_last_round_are_drawn(finished_run: Make, reported_run: Path) -> None:
    html = page(reported_run).split("Is it right when it is sure?")[1].split("<h2>")[0]
    assert html.count("<figure>") == 4
    assert "as promised" in html
    assert "out of 4: entropy 68%, random 68% (31 prompts with" in html
    root = finished_run()
    for path in root.glob("data/*/round-8/evaluation/figures.csv"):
        path.unlink()
    main()
    assert "Is it right when it is sure?" not in page(root)


def test_how_the_benchmark_is_scored_and_what_is_not_counted_is_said(reported_run: Path) -> None:
    root = reported_run
    markdown = (root / "reports/label_efficiency.md").read_text(encoding="utf-8")
    assert (
        "The benchmark is data/corpus. How it is scored: a section is the share of its pairs that are ordered rightly"
        in markdown
    )
    assert "reported alone and in no section: <i>mine (3)" in markdown
    assert "Not scored: tie (2)." in markdown
    assert "&lt;i&gt;mine (3)" in page(root)
    assert "<i>mine" not in page(root)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_small_and_asks_nobody_for_anything(reported_by_20: Path) -> None:
    root = reported_by_20
    html = page(root)
    parser = _Page()
    parser.feed(html)
    assert parser.open == []
    assert len(html.encode()) < 1_000_000
    names = {tag for tag, _ in parser.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "form"}
    attributes = {name for _, found in parser.tags for name in found}
    assert not attributes & {"src", "style", "onclick", "onload"}
    assert {found["href"] for _, found in parser.tags if "href" in found} == {"costs.html"}
    assert "http" not in html.replace("http-equiv", "")
    policy = next(found["content"] for tag, found in parser.tags if tag == "meta" and "http-equiv" in found)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


def test_texts_of_the_pool_cannot_write_into_the_page(finished_run: Make) -> None:
    root = finished_run()
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;\x00\x1b[31m \u202e"
    for name in ("prompts", "responses"):
        table = read_table(root / f"data/pool/{name}.parquet")
        table["text"] = np.array([hostile] * len(table["text"]), dtype=object)
        write_table(root / f"data/pool/{name}.parquet", table)
    pairs = read_table(root / "data/pool/pairs.parquet")
    pairs["section"] = np.array([f"<b>{s}" for s in pairs["section"]], dtype=object)
    write_table(root / "data/pool/pairs.parquet", pairs)
    main()
    html = page(root)
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>chat" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert not re.search("[\x00\x1b]", html)


@pytest.mark.slow
def test_the_page_says_where_texts_and_preferences_come_from(finished_run: Make, reported_run: Path) -> None:
    assert "texts written for this project, preferences by simulated annotators" in page(reported_run)
    root = finished_run()
    finished_params = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(finished_params.replace("data/corpus", "mine/pool.jsonl"), encoding="utf-8")
    main()
    assert "simulated annotators" not in page(root).split("<footer>")[1]
    assert "mine/pool.jsonl, as params.yaml names it" in page(root)


@pytest.mark.slow
def test_costs_are_grouped_by_stage_and_leftovers_of_other_runs_left_out(finished_run: Make) -> None:
    root = finished_run()
    (root / ".timings/broken.json").write_text("{")
    main()
    rows = re.findall(r'<th scope="row">(train|embed|prepare|broken)</th><td>(\d+)</td>', costs(root))
    assert rows == [("train", "3"), ("embed", "1"), ("prepare", "1")]


def test_what_a_pair_was_believed_to_be_is_read_at_the_temperature_of_its_round(finished_run: Make) -> None:
    root = finished_run({"entropy": (2.0, 0.72)}, seeds=1, rounds=1)
    table = read_table(root / "data/entropy/round-1/labels.parquet")
    table["mean"] = np.where(table["round"] == 1, 1.0, np.nan)
    table["variance"] = np.where(table["round"] == 1, 4.0, np.nan)
    write_table(root / "data/entropy/round-1/labels.parquet", table)
    curve = root / "data/entropy/round-1/evaluation/curve.csv"
    curve.write_text(curve.read_text().replace("0,0,32,model,all,tau,1.0", "0,0,32,model,all,tau,2.0"))
    main()
    sigmoid = [1 / (1 + math.exp(-(1 + z * 2) / 2)) for z in (0, -1.645, 1.645)]
    middle, low, high = (f"{100 * p:.0f}%" for p in sigmoid)
    assert f"P(A better) <b>{middle}</b>, {low} to {high}" in page(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("metric", "measure", 1), "expected columns"),
        (lambda text: text.replace(",accuracy,0.", ",accuracy,x0.", 1), "cannot be read as a learning curve"),
        (lambda text: re.sub(r"accuracy,[0-9.]+", "accuracy,inf", text, count=1), "is infinite"),
        (lambda text: "\n".join(line for line in text.splitlines() if not line.startswith("4,8,")), "label count"),
        (lambda text: text.splitlines()[0], "no rows"),
    ],
)
def test_a_damaged_curve_is_refused_with_its_path(
    finished_run: Make, change: Callable[[str], str], message: str
) -> None:
    root = finished_run()
    path = root / CURVE
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(StateError, match=message) as error:
        main()
    assert CURVE in str(error.value)
    assert not (root / "reports").exists()


def test_answers_by_prompt_of_another_run_are_refused(finished_run: Make) -> None:
    root = finished_run()
    path = root / "data/random/round-8/evaluation/prompts.parquet"
    table = read_table(path)
    write_table(path, {name: column[:-1] for name, column in table.items()})
    with pytest.raises(StateError, match="belongs to another run"):
        main()
    write_table(path, {**table, "pairs": table["pairs"] + (table["seed"] == 0)})
    with pytest.raises(StateError, match="held-out prompts differ"):
        main()


def test_arms_over_other_seeds_are_not_compared(finished_run: Make) -> None:
    root = finished_run()
    for name in ("evaluation/curve.csv", "evaluation/prompts.parquet"):
        path = root / "data/random/round-8" / name
        if path.suffix == ".csv":
            lines = path.read_text(encoding="utf-8").splitlines()
            path.write_text("\n".join(line for line in lines if not line.startswith("4,")) + "\n", encoding="utf-8")
        else:
            table = read_table(path)
            write_table(path, {k: v[table["seed"] != 4] for k, v in table.items()})
    with pytest.raises(StateError, match="differ in seeds"):
        main()


@pytest.mark.parametrize("wrong", [{"target": 0.0}, {"target": 1.1}, {"resamples": 5}, {"traget": 0.9}])
def test_wrong_report_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"report\."):
        parse(ReportSettings, wrong, "report")


def test_numbers_are_written_the_way_people_read_them() -> None:
    assert [percent(x) for x in (0.412, -0.3, -0.001, -np.inf)] == ["41%", "\N{MINUS SIGN}30%", "0%", "not reached"]
    assert ends(-np.inf, 0.2) == "not reached to 20%"
    assert ends(-np.inf, -np.inf) == "not reached"
    assert points(-0.013) == "\N{MINUS SIGN}1.3"
    assert count(12345.6) == "12,346"


def test_axes_have_round_numbers_and_measured_label_counts() -> None:
    assert ticks(0.51, 0.69, 4).tolist() == pytest.approx([0.55, 0.6, 0.65])
    assert ticks(47.2, 71.9, 5).tolist() == pytest.approx([50, 55, 60, 65, 70])
    assert every([32, 64, 96, 128, 160], 3) == [32, 96, 160]


def test_the_second_prize_has_its_price_at_each_target_and_what_certifying_it_takes(reported_by_20: Path) -> None:
    root = reported_by_20
    found = json.loads((root / "reports/label_efficiency.json").read_text(encoding="utf-8"))["pool"]
    assert [row["target"] for row in found["targets"]] == [0.9, 0.95, 0.98]
    for row in found["targets"][:2]:
        assert row["saving"] == pytest.approx(1 - row["labels"] / row["baseline_labels"], abs=1e-5)
        assert 0 < row["interval"]["low"] <= row["saving"] <= row["interval"]["high"]
        assert row["null_control"]["low"] <= 0 <= row["null_control"]["high"]
    # Audits are labels too: to certify 95% costs more than to have it.
    certified = found["labels_to_certified"]["entropy"]
    assert certified is None or certified > found["targets"][1]["labels"] + 20
    for name, curve in found["certified"].items():
        assert all(low <= right for low, right in zip(curve, found["right"][name], strict=True))
    text = (root / "reports/label_efficiency.md").read_text(encoding="utf-8")
    assert f"{100 * found['targets'][1]['saving']:.0f}% fewer" in text[text.index("## Labels of the whole pool") :]
    assert (root / "reports/pool_labels.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_goal_decides_which_prize_leads_the_page_and_the_report(finished_run: Make) -> None:
    root = finished_run(goal="pool")
    main()
    saving = metrics(root)["pool_label_savings"]
    assert saving is not None
    assert f'<b id="headline-number">{percent(saving)}</b>' in page(root)
    assert page(root).index("Labels of the whole pool") < page(root).index("<h2>Held-out accuracy")
    text = (root / "reports/label_efficiency.md").read_text(encoding="utf-8")
    assert text.index("right labels in the whole pool") < text.index("held-out accuracy")
    assert headline(root) in text


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["model", "pool"])
def test_where_nobody_knows_the_pools_labels_the_second_prize_is_not_measured(finished_run: Make, goal: str) -> None:
    root = finished_run(measured=False, goal=goal)
    main()
    assert metrics(root)["pool_right"] is None
    assert "Not measured: nobody knows the true labels" in page(root)
    assert ("not measured</b>" in page(root)) == (goal == "pool")
