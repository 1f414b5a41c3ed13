"""A labelling campaign from the first pair to the report, through the page, with simulated people at the keyboard.

``python -m benchmarks.human_campaign`` runs it on the shipped corpus in a copy of this working tree: `dvc repro` stops,
`bgpm annotate` asks, people answer in a headless Chromium, `dvc repro` goes on. People answer as the record says, a
given share of the time the opposite. Needs Chromium and chromedriver on PATH.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pipeline import copy_of_the_tree
from bgpm.rounds import rounds

Judge = Callable[[str, str, str], float]  # person, first text, second text -> label

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
READ = 0.3  # seconds a simulated person looks at a pair: the page takes a quicker key for one pressed twice
PATIENCE = 60.0


@contextmanager
def chromium(profile: Path, window: tuple[int, int] = (800, 600)) -> Iterator[Any]:
    """A headless browser, its window so wide and high in pixels."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size={},{}".format(*window)):
        options.add_argument(flag)
    session = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield session
    finally:
        session.quit()


@contextmanager
def server(folder: Path, environment: Mapping[str, str], *arguments: str) -> Iterator[str]:
    """`bgpm annotate` in a folder; gives its address."""
    command = [sys.executable, "-m", "bgpm", "annotate", "--port", "0", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if found := re.search(r"label at (\S+)", line):
                    yield found[1]
                    return
            raise RuntimeError(f"bgpm annotate ended: {said}")
        finally:
            process.terminate()
            process.wait()


def sign_in(browser: Any, url: str, person: str) -> None:
    """Give the page a name."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(url)
    browser.execute_script("sessionStorage.clear()")
    browser.refresh()
    WebDriverWait(browser, PATIENCE).until(lambda b: b.switch_to.active_element.get_attribute("id") == "name")
    field = browser.switch_to.active_element
    field.clear()
    field.send_keys(person + "\n")


def label_everything(browser: Any, url: str, people: Sequence[str], judge: Judge) -> int:
    """Each person in turn answers what the page asks, by keyboard; how many answers that made."""
    given = 0
    for person in people:
        sign_in(browser, url, person)
        before = None
        while (pair := pair_on_page(browser, before)) is not None:
            time.sleep(READ)
            browser.switch_to.active_element.send_keys("1" if judge(person, *pair) >= 0.5 else "2")
            before, given = pair, given + 1
    return given


def pair_on_page(browser: Any, before: tuple[str, str] | None, patience: float | None = None) -> tuple[str, str] | None:
    """The texts of the pair on the page, as they are written, once it is not the one before; None at the end.

    Args:
        patience: Seconds after which None stands for nothing new too; by default that is an error after `PATIENCE`.
    """
    end = time.monotonic() + (PATIENCE if patience is None else patience)
    while time.monotonic() < end:
        asks, done, raw, unsaved, left, right = browser.execute_script(
            "const id = n => document.getElementById(n); const texts = n => id(n).querySelector('.body').textContent;"
            "return [!id('work').hidden, !id('rest').hidden, id('raw').ariaPressed === 'true',"
            "Object.keys(localStorage).some(k => k.startsWith('bgpm:unsaved:')), texts('left'), texts('right')]"
        )
        if asks and not raw:
            browser.switch_to.active_element.send_keys("r")
        elif asks and (left, right) != before:
            return left, right
        elif done and not unsaved and patience is None:
            return None
        time.sleep(0.02 if patience is None else 0.2)
    if patience is None:
        raise TimeoutError("the page shows neither another pair nor the end")
    return None


def campaign(
    folder: Path, environment: Mapping[str, str], browser: Any, people: Sequence[str], judge: Judge
) -> Iterator[str]:
    """Run `dvc repro` and label until it is through; yields a line for each batch."""
    while True:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return
        waits = re.search(r"\d+ of \d+ pairs of (\S+) wait for", done.stderr)
        if not waits:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        with server(folder, environment) as url:
            yield f"{waits[1]}: {label_everything(browser, url, people, judge)} answers"


def recorded(folder: Path, error: float) -> Judge:
    """People who say what is recorded, and of a share of the pairs the opposite, each of pairs of their own."""
    from bgpm.data.tables import read_table

    pairs = read_table(folder / "data/pool/pairs.parquet", ["pair_id", "response_a", "response_b"])
    texts: list[str] = read_table(folder / "data/pool/responses.parquet", ["text"])["text"].tolist()
    truth: dict[tuple[str, str], float] = {}
    label_of = {}
    for split in ("pool", "heldout"):
        table = read_table(folder / f"data/truth/{split}.parquet", ["pair_id", "label"])
        label_of |= dict(zip(table["pair_id"], table["label"].tolist(), strict=True))
    for pair_id, response_a, response_b in zip(pairs["pair_id"], pairs["response_a"], pairs["response_b"], strict=True):
        truth[texts[response_a], texts[response_b]] = label_of[pair_id]
        truth[texts[response_b], texts[response_a]] = 1 - label_of[pair_id]

    return judge_by(truth, error)


def judge_by(truth: Mapping[tuple[str, str], float], error: float) -> Judge:
    """People who know the labels of pairs by their responses, and say the opposite of a share of the pairs."""

    def judge(person: str, left: str, right: str) -> float:
        return 1 - truth[left, right] if mistaken(person, left, right, error) else truth[left, right]

    return judge


def mistaken(person: str, left: str, right: str, error: float) -> bool:
    """Whether this person gets this pair wrong, which happens with a share of the pairs, each time the same ones."""
    key = "\0".join([person, *sorted((left, right))])
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=2).digest(), "big") < 65536 * error


def main() -> None:
    """Print a line a batch and the report's numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.human_campaign")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--people", nargs="+", default=["ada", "bo"])
    parser.add_argument("--error", type=float, default=0.1, help="share of pairs that a person gets wrong")
    parser.add_argument("--keep", type=Path, help="where the campaign's folder is left; default: nowhere")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name) / "project"
        folder.mkdir(parents=True)
        copy_of_the_tree(folder)
        environment = os.environ | {"PYTHONPATH": str(folder)}
        params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        params |= {"oracle": "human", "seeds": [0], "baseline": params["acquisition"], "batch_size": given.batch}
        params["rounds"] = yaml.safe_load(rounds(given.rounds))
        params["oracles"]["human"] |= {"annotators_per_pair": len(given.people), "price_per_hour": 20.0}
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        prepared = [sys.executable, "-m", "dvc", "repro", "prepare"]
        subprocess.run(prepared, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        judge = recorded(folder, given.error)
        with chromium(Path(name) / "profile") as browser:
            for line in campaign(folder, environment, browser, given.people, judge):
                print(line, flush=True)
        print(json.dumps(json.loads((folder / "reports/metrics.json").read_text(encoding="utf-8")), indent=2))


if __name__ == "__main__":
    main()
