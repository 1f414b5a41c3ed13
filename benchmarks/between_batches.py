"""Where the time goes between the last label of a batch and the next batch, as `bgpm annotate --run` spends it.

``python -m benchmarks.between_batches`` makes a pool of 100,000 pairs with frozen features (made up: embedding is done
once, before the first label), gives 1,000 labels as people would, and then labels of one batch of 32. It prints the CPU
seconds of each stage of the `dvc repro` that follows, and what DVC itself takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from benchmarks.pipeline import copy_of_the_tree

RESPONSES = 4  # to each prompt, so six pairs
WIDTH = 71  # of the default features: 64 components and seven statistics
BATCH = 32


def write_pool(path: Path, pairs: int) -> None:
    """Pairs without labels; each text has words of its own, so that none is taken for a copy of another."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for prompt in range(-(-pairs // 6)):
            words = [" ".join(f"w{n}" for n in rng.integers(0, 50_000, 8)) for _ in range(RESPONSES + 1)]
            for a, b in itertools.combinations(words[1:], 2):
                line = {"prompt": f"{words[0]} prompt{prompt}", "response_a": a, "response_b": b}
                file.write(json.dumps(line) + "\n")


def write_features(folder: Path) -> None:
    """Features of every text of pool and benchmark, and something in the place of the embeddings."""
    from bgpm.data.tables import read_table

    rng = np.random.default_rng(1)
    for which in ("pool", "benchmark"):
        (folder / "data/embeddings" / which).mkdir(parents=True)
        (folder / "data/embeddings" / which / "made-up").touch()
        (folder / "data/features" / which).mkdir(parents=True)
        for name in ("responses", "prompts"):
            count = len(read_table(folder / f"data/{which}/{name}.parquet", ["text"])["text"])
            states = rng.normal(0, 1, (count, WIDTH)).astype(np.float32)
            np.save(folder / "data/features" / which / f"{name}.npy", states)
    (folder / "data/texts.json").write_text("null\n", encoding="utf-8")


def answer(folder: Path, note: str) -> int:
    """Label what a note asks for; how many pairs that were."""
    pairs = json.loads((folder / note).read_text(encoding="utf-8"))["pairs"]
    rng = np.random.default_rng(len(pairs))
    with (folder / "data/annotations/people.jsonl").open("a", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps({"pair_id": pair, "label": int(rng.integers(2)), "annotator": "ada"}) + "\n")
    return len(pairs)


def repro(folder: Path, environment: dict[str, str]) -> tuple[list[str], float, float]:
    """`dvc repro` until it waits for labels: the stages that ran, CPU and wall seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if "wait for a label" not in done.stderr:
        sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return re.findall(r"^Running stage '([^']+)'", done.stdout, re.M), cpu, wall


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=1_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        folder.mkdir()
        copy_of_the_tree(folder)
        shutil.rmtree(folder / "tests", ignore_errors=True)
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
        }
        write_pool(folder / "pool.jsonl", given.pairs)
        params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        params |= {"oracle": "human", "seeds": [0], "baseline": params["acquisition"], "batch_size": BATCH}
        params["pool"] |= {"path": "pool.jsonl", "heldout": 0.05}
        params["start"]["labels"] = given.labels
        (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

        def dvc(*arguments: str) -> None:
            subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip

        dvc("repro", "prepare")
        write_features(folder)
        dvc("commit", "--force", "embed@pool", "embed@benchmark", "features")
        repro(folder, environment)
        answer(folder, "data/start/waiting.json")
        repro(folder, environment)  # the first batch
        arm = params["acquisition"]
        count = answer(folder, f"data/{arm}/round-0/waiting.json")
        stages, cpu, wall = repro(folder, environment)
        print(f"From the last of {count} labels to the next batch; {given.pairs:,} pairs, {given.labels:,} labels.\n")
        print("| what | CPU s |\n|---|---|")
        told = 0.0
        for stage in stages:
            script, _, number = stage.partition(f"@{arm}-round")
            round_ = int(number) + (script in ("train", "evaluate"))
            timing = folder / ".timings" / f"{script}-{arm}-{round_}.json"
            if script == "label" and int(number):  # it waits: a stage that stops notes no time
                print(f"| {stage}, which finds that labels are missing | in DVC's |")
                continue
            seconds = json.loads(timing.read_text(encoding="utf-8"))["cpu_seconds"]
            told += seconds
            print(f"| {stage} | {seconds:.1f} |")
        print(
            f"| DVC, and starting processes | {cpu - told:.1f} |\n| together | {cpu:.1f} ({wall:.0f} s on the clock) |"
        )


if __name__ == "__main__":
    main()
