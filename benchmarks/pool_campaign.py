"""A pool labelled by two people at once until its labels are certified: `bgpm annotate --run` and a browser each.

``python -m benchmarks.pool_campaign`` takes prompts of the shipped corpus with seven responses and all their pairs,
without labels, into a copy of this working tree. After the first `dvc repro` nobody touches a terminal: people label in
headless Chromium, the server runs the rounds, and they stop when the tab Campaign says so. People answer by the
corpus's label, of a given share of pairs the opposite, after a time that grows with the length of what they read. Then
the labels are exported as a data set, and compared with the corpus. Needs Chromium and chromedriver on PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.human_campaign import PATIENCE, Judge, chromium, judge_by, pair_on_page, server, sign_in
from benchmarks.pipeline import ROOT, copy_of_the_tree
from bgpm.data.corpus import all_pairs, as_rows, read_annotators, read_corpus
from bgpm.data.tables import read_table
from bgpm.rounds import rounds

RESPONSES = 7  # of each prompt: the more, the more a label says of other pairs
WINDOW = (1280, 800)
STOP = "Stop here"
LOOK_AGAIN = 3.0  # seconds between two looks at the tab Campaign
Rows = list[dict[str, Any]]


@dataclass
class Person:
    """Somebody who labels in a window of their own.

    Attributes:
        given: When each label was given, of which batch, and whether for the reserve.
        seen: When each batch was on the page first, by its title.
        pictures: What to do once a text is on the page, by that text.
    """

    name: str
    judge: Judge
    seconds: Callable[[str], float]
    given: list[tuple[float, str, bool]] = field(default_factory=list)
    seen: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)

    def label(self, url: str, profile: Path, stop: threading.Event) -> None:
        """Label what the page asks until it is time to stop."""
        with chromium(profile, WINDOW) as browser:
            sign_in(browser, url, self.name)
            before = None
            while not stop.is_set():
                pair = pair_on_page(browser, before, patience=1.0)
                if pair is None:
                    continue
                where, run = browser.execute_script(
                    "const id = n => document.getElementById(n);"
                    "return [id('where').textContent, id('run').hidden ? '' : id('run-text').textContent]"
                )
                title, reserve = where.split(":")[0], "kept for the rounds" in where
                self.seen.setdefault(title, time.monotonic())
                self._picture(browser, f"{where} {run}")
                if stop.wait(self.seconds(" ".join(pair))):
                    break
                browser.switch_to.active_element.send_keys("1" if self.judge(self.name, *pair) >= 0.5 else "2")
                self.given.append((time.monotonic(), title, reserve))
                before = pair

    def _picture(self, browser: Any, words: str) -> None:
        """The page as people see it: with Markdown, which a script cannot compare with what is written."""
        for wanted in [wanted for wanted in self.pictures if wanted in words]:
            browser.switch_to.active_element.send_keys("r")
            time.sleep(0.3)
            browser.save_screenshot(str(self.pictures.pop(wanted)))
            browser.switch_to.active_element.send_keys("r")


def small_pool(prompts: int) -> tuple[Rows, Rows]:
    """All pairs of the corpus's first prompts with `RESPONSES` responses; and a pair each of as many others."""
    folder = ROOT / "data/corpus"
    by_prompt: dict[str, Rows] = {}
    corpus = read_corpus(folder)
    for row in as_rows(all_pairs(read_annotators(folder), corpus), corpus, clear=False):
        by_prompt.setdefault(row["prompt"], []).append(row)
    wanted = [prompt for prompt, rows in by_prompt.items() if len(rows) == RESPONSES * (RESPONSES - 1) // 2]
    pool = [row for prompt in sorted(wanted)[:prompts] for row in by_prompt[prompt]]
    others = [prompt for prompt in sorted(by_prompt) if prompt not in wanted][:prompts]
    return pool, [by_prompt[prompt][0] for prompt in others]


def truth_of(pool: Rows) -> dict[tuple[str, str], float]:
    """The corpus's label of each pair by its responses, in both orders."""
    truth = {(row["response_a"], row["response_b"]): row["label"] for row in pool}
    return truth | {(b, a): 1 - label for (a, b), label in truth.items()}


def reading_time(words_a_second: float, seed: int) -> Callable[[str], float]:
    """Seconds that somebody takes for texts: in proportion to their words, with a spread of a third."""
    rng = np.random.default_rng(seed)
    return lambda text: max(1.0, len(text.split()) / words_a_second * rng.lognormal(0, 1 / 3))


def prepare(folder: Path, environment: Mapping[str, str], pool: Rows, others: Rows, target: float) -> None:
    """A project that waits for its seed set."""
    copy_of_the_tree(folder)
    bare = [{name: row[name] for name in ("prompt", "response_a", "response_b")} for row in pool]
    sides = [("response_a", "response_b") if row["label"] >= 0.5 else ("response_b", "response_a") for row in others]
    benchmark = [
        {"prompt": row["prompt"], "chosen": row[good], "rejected": row[bad], "subset": "others"}
        for row, (good, bad) in zip(others, sides, strict=True)
    ]
    for name, rows in (("pool.jsonl", bare), ("benchmark.jsonl", benchmark)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params |= {"goal": "pool", "oracle": "human", "acquisition": "auto", "baseline": "auto", "seeds": [1]}
    params |= {"batch_size": 0.1, "model": "bt", "rounds": yaml.safe_load(rounds(6))}
    params["start"]["labels"] = 0.15
    params["pool"] |= {"path": "pool.jsonl", "heldout": 0.0}
    params["benchmark"]["path"] = "benchmark.jsonl"
    params["posteriors"]["laplace"]["response_variance"] = 1.0
    params["audit"] |= {"target": target, "looks": 7}
    params["oracles"]["human"]["price_per_hour"] = 20.0
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    done = dvc(folder, environment, "repro")
    if not re.search(r"pairs of data/start/batch.parquet wait for", done.stderr):
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])


def dvc(folder: Path, environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """A command of DVC, whatever its exit code."""
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def watch(browser: Any, url: str, pictures: Path | None, limit: float) -> None:
    """Look at the tab Campaign until it says to stop; a picture of it once it has a bound, and at the end."""
    end, before, text = time.monotonic() + limit, "", ""
    while time.monotonic() < end:
        browser.get(url + "campaign")
        text = browser.find_element("tag name", "main").text
        for line in text.splitlines():
            if re.search(r"audits, in \d+ of which", line) and line != before:
                print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
                before = line
                if pictures and STOP not in text:
                    whole_page(browser, pictures / "campaign.png")
        if STOP in text:
            if pictures:
                whole_page(browser, pictures / "stop.png")
            return
        time.sleep(LOOK_AGAIN)
    raise TimeoutError(f"{limit:.0f} s without {STOP!r}; the page says:\n{text}")


def whole_page(browser: Any, path: Path) -> None:
    """A picture of everything that a page has, as wide as the window."""
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.set_window_size(WINDOW[0], min(max(height + 150, WINDOW[1]), 4000))
    time.sleep(0.3)
    browser.save_screenshot(str(path))
    browser.set_window_size(*WINDOW)


def waits(people: Sequence[Person]) -> list[dict[str, Any]]:
    """Of each batch: its labels by person, seconds from the last to the next batch, labels of the reserve meanwhile."""
    titles = sorted(
        {title for person in people for title in person.seen if title != "reserve"},
        key=lambda title: min(person.seen[title] for person in people if title in person.seen),
    )
    titles = [t for t in titles if any(not reserve and t == title for p in people for _, title, reserve in p.given)]
    found = []
    for n, title in enumerate(titles):
        times = [moment for person in people for moment, of, reserve in person.given if of == title and not reserve]
        entry: dict[str, Any] = {"batch": title}
        entry["labels"] = {p.name: sum(of == title and not r for _, of, r in p.given) for p in people}
        if n + 1 < len(titles):
            came = min(person.seen[titles[n + 1]] for person in people if titles[n + 1] in person.seen)
            between = [1 for p in people for moment, _, r in p.given if r and max(times) < moment < came]
            entry |= {"seconds_to_next": round(came - max(times), 1), "reserve_meanwhile": len(between)}
        found.append(entry)
    return found


def share_right(folder: Path, pool: Rows, last: int) -> float:
    """Of the labels of a round's pool, those that the corpus has too."""
    truth = truth_of(pool)
    texts: list[str] = read_table(folder / "data/pool/responses.parquet", ["text"])["text"].tolist()
    pairs = read_table(folder / "data/pool/pairs.parquet", ["response_a", "response_b"])
    labels = read_table(folder / f"data/auto/round-{last}/pool_labels.parquet", ["pair", "label"])
    known = [truth[texts[pairs["response_a"][row]], texts[pairs["response_b"][row]]] for row in labels["pair"]]
    return float((labels["label"] == known).mean())


def main() -> None:
    """Print what happened, line by line, and at the end as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool_campaign")
    parser.add_argument("--prompts", type=int, default=12, help="21 pairs each")
    parser.add_argument("--people", nargs="+", default=["ada", "bo"])
    parser.add_argument("--error", type=float, default=0.02, help="share of pairs that a person gets wrong")
    parser.add_argument("--target", type=float, default=0.85, help="share of right labels to be certified")
    parser.add_argument("--words", type=float, default=12.0, help="words that people read in a second")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds after which it gives up")
    parser.add_argument("--keep", type=Path, help="where the project's folder is left; default: nowhere")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the pages; default: none")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (given.keep or Path(name) / "project").resolve()
        folder.mkdir(parents=True)
        environment = os.environ | {"PYTHONPATH": str(folder)}
        pool, others = small_pool(given.prompts)
        prepare(folder, environment, pool, others, given.target)
        judge = judge_by(truth_of(pool), given.error)
        people = [Person(who, judge, reading_time(given.words, n)) for n, who in enumerate(given.people)]
        if given.pictures:
            given.pictures.mkdir(parents=True, exist_ok=True)
            people[0].pictures |= {
                "seed set: 1": given.pictures / "label.png", "kept for the rounds": given.pictures / "reserve.png",
            }  # fmt: skip
        stop, began = threading.Event(), time.monotonic()
        with server(folder, environment, "--run") as url:
            threads = [
                threading.Thread(target=person.label, args=(url, Path(name) / person.name, stop)) for person in people
            ]
            try:
                for thread in threads:
                    thread.start()
                with chromium(Path(name) / "watch", WINDOW) as browser:
                    watch(browser, url, given.pictures, given.limit)
            finally:
                stop.set()
                for thread in threads:
                    thread.join(PATIENCE)
        finish(folder, environment, pool, people, time.monotonic() - began)
        if given.pictures:
            with chromium(Path(name) / "report", WINDOW) as browser:
                browser.get((folder / "reports/index.html").as_uri())
                browser.save_screenshot(str(given.pictures / "report.png"))


def finish(folder: Path, environment: Mapping[str, str], pool: Rows, people: Sequence[Person], seconds: float) -> None:
    """Export the labels, write the report of the rounds that were run, and print what happened."""
    last = max(int(path.parent.name.split("-")[1]) for path in folder.glob("data/auto/round-*/pool_labels.parquet"))
    command = [sys.executable, "-m", "bgpm", "export", "--pool", f"data/auto/round-{last}", "--format", "dpo"]
    command += ["--seed", "1", "--dataset", "preferences"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    print(done.stderr.strip(), flush=True)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["rounds"] = yaml.safe_load(rounds(last))
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    if (done := dvc(folder, environment, "repro")).returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    found = {
        "pool": len(pool),
        "rounds": last,
        "labels": len(read_table(folder / f"data/auto/round-{last}/labels.parquet", ["pair"])["pair"]),
        "audits": len(read_table(folder / f"data/auto/round-{last}/audits.parquet", ["pair"])["pair"]),
        "given": sum(len(person.given) for person in people),
        "certified": json.loads((folder / "reports/metrics.json").read_text(encoding="utf-8"))["pool_certified"],
        "right": round(share_right(folder, pool, last), 4),
        "minutes": round(seconds / 60, 1),
        "batches": waits(people),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
