"""Which pairs other active-learning libraries would have labelled, beside ours: same features, seed labels and model.

``python -m benchmarks.peers_acquisition FOLDER`` writes reports/peers_acquisition.csv: scikit-activeml's strategies and
ours on the features `states_statistics` of the study's pools, `START` uniform seed labels, batches of `BATCH`, to
`BUDGET` labels. Every line is the accuracy on held-out prompts of the same model, Bradley-Terry as the study's arm
`random` has it, fitted on the labels that a strategy asked for; so only the choice of pairs differs. scikit-activeml
chooses by its own logistic regression (benchmarks/peer_scripts/activeml.py), ours by that Bradley-Terry's Laplace
posterior. The gain over uniform draws has a 95% interval over seeds and held-out prompts, both with the same draws.
Seconds are CPU seconds of the whole loop of a seed, choice of C or prior, fits and choices of pairs together.

``--times`` writes reports/peers_batch.csv instead: CPU seconds to choose a batch of `CHOSEN` among 10,000 and 100,000
pairs of made-up features, given a fitted model. Each is a process of its own with one thread; what takes over `LIMIT`
seconds of wall time is ended and said.

FOLDER, the environments and ``--embeddings`` are those of `benchmarks.peers`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import peers
from benchmarks.peer_scripts.cell import peak_mib
from benchmarks.peers import ROOT, WORK, Data, chosen
from bgpm.data.sheets import csv_text
from bgpm.errors import BgpmError, StateError
from bgpm.evaluation.savings import aulc_difference, resample
from bgpm.fingerprints import code_fingerprint
from bgpm.loop.loop import Loop
from bgpm.loop.pool import Pool, with_features
from bgpm.loop.score import score
from bgpm.loop.select import select
from bgpm.loop.start import start
from bgpm.loop.train import train
from bgpm.registry import parse
from bgpm.selection import StartSettings
from bgpm.stage import REPORTS, generator, read_params, write_json, write_text
from bgpm.study import PARAMS, ArmPlan, read_plan
from bgpm.study.arm import Components
from bgpm.study.feature_sets import along, trials
from bgpm.study.seeds import of_all
from bgpm.types import Features, Pairs

READS = "states_statistics"
START, BATCH, BUDGET = 32, 32, 320
SEEDS = 10
OURS = {
    "random": {"acquisition": "random", "model": "bt"},
    "entropy": {"acquisition": "entropy", "model": "bt"},
    "margin": {"acquisition": "margin", "model": "bt"},
    "bald": {"acquisition": "bald", "model": "bt"},
}
THEIRS = ("entropy", "committee", "badge", "clue", "falcun", "coreset", "typiclust")
SIZES, WIDTH, CHOSEN, LABELLED = (10_000, 100_000), 64, 256, 256
LIMIT = 600
COLUMNS = ("pool", "tool", "strategy", "labels", "seeds", "accuracy", "gain", "gain_low", "gain_high", "seconds")
TIME_COLUMNS = ("tool", "strategy", "pairs", "features", "batch", "seconds", "peak_mib")


def components(strategy: str) -> Components:
    """One of `OURS`, built."""
    return Components.of(parse(ArmPlan, OURS[strategy], "arm", __name__))


def our_picks(strategy: str, data: Data, seed: int) -> tuple[np.ndarray, float]:
    """Rows of the pool's table in the order of acquisition, and the CPU seconds of the loop."""
    parts, initial = components(strategy), StartSettings(labels=START)
    pool = data.pool_of(READS)
    loop = Loop(pool, lambda rows: data.label[rows], **vars(parts), start=initial, batch_size=BATCH, seed=seed)
    began = time.process_time()
    rows = np.concatenate([done.rows for done in loop.rounds(BUDGET)])
    return rows, time.process_time() - began


def their_picks(strategy: str, data: Data, seeds: Sequence[int], work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the pool in the order of acquisition, [seeds, budget], and CPU seconds of the loops, [seeds]."""
    opened, initial = data.pool.open, StartSettings(labels=START)
    first = np.stack([start(initial, data.pool, generator=generator("start", seed)) for seed in seeds])
    pairs = data.pool.pairs.take(opened)
    arrays = {
        "pairs": np.column_stack([pairs.response_a, pairs.response_b, pairs.prompt]),
        "labels": data.label[opened],
        "rows": np.searchsorted(opened, first),
        "seeds": np.array(seeds),
        "responses": data.features[READS].responses,
    }
    settings = {"strategies": [strategy], "batch": BATCH, "budget": BUDGET}
    found = run_peer(arrays, settings, work, f"{strategy}.txt")
    return opened[found["picks"][0]], found["seconds"][0]


def run_peer(
    arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], work: Path, log: str, limit: float | None = None
) -> dict[str, np.ndarray]:
    """What the script found; raises as `benchmarks.peers.run_script`, and TimeoutExpired."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as place:
        task = Path(place)
        np.savez(task / "task.npz", **cast("Mapping[str, Any]", arrays))
        write_json(task / "settings.json", settings)
        peers.run_script("activeml", task, work / "logs" / log, limit)
        with np.load(task / "picks.npz") as file:
            return dict(file)


def measured(data: Data, rows: np.ndarray, seed: int) -> dict[str, list[Any]]:
    """Right responses by held-out prompt of a Bradley-Terry of the first labels, after every batch."""
    parts, heldout = components("random"), with_features(data.heldout, data.features[READS])
    truth = {"label": data.label, "margin": np.full(len(data.label), np.nan)}
    counts = range(START, BUDGET + 1, BATCH)
    found = along(parts.model, parts.posterior, data.pool_of(READS), truth, heldout, rows, counts, seed=seed)
    return {name: column.tolist() for name, column in found.items()}


def run_strategy(
    tool: str, strategy: str, pool: str, data: Data, seeds: Sequence[int], work: Path
) -> dict[int, dict[str, Any]]:
    """Every seed's accuracies and seconds; kept, and read again where nothing of it changed."""
    made_of = key(tool, strategy, data)
    home = work / "acquisition" / pool / tool / strategy
    missing = [seed for seed in seeds if peers.read_cell(home / f"{seed}.json", made_of) is None]
    picked = []
    if missing and tool == "bgpm":
        picked = [our_picks(strategy, data, seed) for seed in missing]
    elif missing:
        picked = list(zip(*their_picks(strategy, data, missing, work / "acquisition"), strict=True))
    for n, seed in enumerate(missing):
        rows, seconds = picked[n]
        curve = measured(data, rows, seed)
        home.mkdir(parents=True, exist_ok=True)
        write_json(home / f"{seed}.json", {"key": made_of, "curve": curve, "seconds": float(seconds)})
    found = {seed: peers.read_cell(home / f"{seed}.json", made_of) for seed in seeds}
    return {seed: cell for seed, cell in found.items() if cell is not None}


def key(tool: str, strategy: str, data: Data) -> str:
    """What a result depends on beside pool and seed: one that has another key is run again."""
    scripts = ("activeml.py", "activeml.txt", "logistic.py", "cell.py") if tool != "bgpm" else ()
    made_of = [
        tool, strategy, OURS, START, BATCH, BUDGET, data.origin,
        code_fingerprint(Path(__file__).relative_to(ROOT), ROOT),
        *((peers.SCRIPTS / name).read_text(encoding="utf-8") for name in scripts),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def lines_of(
    pool: str, tool: str, strategy: str, found: Mapping[int, dict[str, Any]], base: Mapping[int, dict[str, Any]]
) -> list[list[object]]:
    """Lines of one strategy, one after each batch, and one for the area under the curve (labels ``mean``)."""
    seeds = sorted(set(found) & set(base))
    tables = ([as_table(cells[seed]["curve"]) for seed in seeds] for cells in (found, base))
    own, uniform = (trials(of_all(seeds, some)) for some in tables)
    curves = resample(own, uniform, peers.DRAWS, generator("peers acquisition", pool, tool, strategy))
    seconds = f"{np.mean([found[seed]['seconds'] for seed in seeds]):.2f}"
    out: list[list[object]] = []
    for n, labels in enumerate(own.labels.astype(int).tolist()):
        gained = curves.arm[n] - curves.baseline[n]
        out.append([pool, tool, strategy, labels, len(seeds), f"{curves.arm[n]:.4f}", f"{gained:.4f}", "", "", seconds])
    area = aulc_difference(curves)
    ends = [f"{v:.4f}" for v in (area.interval.low, area.interval.high)] if area.interval else ["", ""]
    out.append(
        [pool, tool, strategy, "mean", len(seeds), f"{curves.arm.mean():.4f}", f"{area.value:.4f}", *ends, seconds]
    )
    return out


def as_table(curve: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    return {name: np.array(column) for name, column in curve.items()}


def compare(options: argparse.Namespace) -> None:
    """Run every strategy on every pool that is asked for; the table is written after each pool."""
    plan = read_plan(read_params(ROOT / PARAMS))
    peers.prepare_work(options.folder)
    seeds = range(plan.first_seed, plan.first_seed + options.seeds)
    lines: list[list[object]] = []
    for pool in chosen(options.pools, peers.POOLS, "--pools"):
        data = peers.read_data(
            pool, plan, options.folder.resolve(), options.embeddings and options.embeddings.resolve()
        )
        base = run_strategy("bgpm", "random", pool, data, seeds, WORK)
        for tool, strategies in (("bgpm", tuple(OURS)), ("scikit-activeml", THEIRS)):
            for strategy in strategies:
                print(f"{pool} {tool} {strategy}", file=sys.stderr, flush=True)
                found = run_strategy(tool, strategy, pool, data, seeds, WORK)
                lines += lines_of(pool, tool, strategy, found, base)
        write_text(ROOT / REPORTS / "peers_acquisition.csv", csv_text(COLUMNS, lines))


def times() -> None:
    """One choice of every strategy at both sizes."""
    lines: list[list[object]] = []
    for n in SIZES:
        arrays = made_up(n)
        for strategy in THEIRS:
            settings = {"strategies": [strategy], "batch": CHOSEN, "times": True}
            try:
                found = run_peer(arrays, settings, WORK / "acquisition", f"times-{strategy}-{n}.txt", LIMIT)
                cells = [f"{found['seconds'][0, 0]:.2f}", f"{found['peak_mib']:.0f}"]
            except subprocess.TimeoutExpired:
                cells = [f"over {LIMIT} s of wall time", ""]
            except StateError as error:
                cells = [f"failed: {str(error)[:200]}", ""]
            lines.append(["scikit-activeml", strategy, n, WIDTH, CHOSEN, *cells])
            write_text(ROOT / REPORTS / "peers_batch.csv", csv_text(TIME_COLUMNS, lines))
        for strategy in OURS:
            command = [sys.executable, "-m", "benchmarks.peers_acquisition", "--time-of", strategy, str(n)]
            done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=LIMIT)
            spent, peak = done.stdout.split()
            lines.append(["bgpm", strategy, n, WIDTH, CHOSEN, spent, peak])
            write_text(ROOT / REPORTS / "peers_batch.csv", csv_text(TIME_COLUMNS, lines))


def made_up(pairs: int) -> dict[str, np.ndarray]:
    """A task of so many pairs, four responses a prompt, `LABELLED` of them labelled by a linear reward."""
    rng = np.random.default_rng(0)
    prompts = -(-pairs // 6)
    responses = rng.standard_normal((4 * prompts, WIDTH)) / np.sqrt(np.arange(1, WIDTH + 1))
    sides = np.array([(i, j) for i in range(4) for j in range(i + 1, 4)])
    within = np.tile(sides, (prompts, 1))[:pairs]
    prompt = np.repeat(np.arange(prompts), 6)[:pairs]
    table = np.column_stack([4 * prompt + within[:, 0], 4 * prompt + within[:, 1], prompt])
    score = 4 * (responses[table[:, 0]] - responses[table[:, 1]]) @ (rng.standard_normal(WIDTH) / np.sqrt(WIDTH))
    label = (rng.random(pairs) < 1 / (1 + np.exp(-score))).astype(np.float64)
    label[rng.permutation(pairs)[LABELLED:]] = np.nan
    return {"pairs": table, "labels": label, "responses": responses.astype(np.float32)}


def our_time(strategy: str, n: int) -> str:
    """CPU seconds and MiB of one choice of ours, the model fitted before."""
    arrays = made_up(n)
    prompts = np.zeros((int(arrays["pairs"][-1, 2]) + 1, WIDTH), np.float32)
    pool = Pool.of(Features(arrays["responses"], prompts), Pairs(*arrays["pairs"].T))
    rows = np.flatnonzero(~np.isnan(arrays["labels"]))
    parts = components(strategy)
    labels = {"pair": rows, "label": arrays["labels"][rows], "margin": np.full(len(rows), np.nan)}
    model = train(parts.posterior, parts.model, pool, labels, seed=0)
    began = time.process_time()
    scores = score(parts.acquisition, model, pool, rows, generator=generator("score"))
    select(parts.selection, pool, scores, lambda: model, CHOSEN, generator=generator("select"))
    return f"{time.process_time() - began:.2f} {peak_mib():.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="the folder of the study's files of pools"
    )
    parser.add_argument("--pools", nargs="+", metavar="POOL", help=f"which of {', '.join(peers.POOLS)}")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many; default: %(default)s")
    parser.add_argument("--embeddings", type=Path, metavar="FOLDER", help="states of an earlier study")
    parser.add_argument("--times", action="store_true", help="time to choose a batch, on made-up features")
    parser.add_argument("--time-of", nargs=2, metavar=("STRATEGY", "PAIRS"), help="one choice of ours, in this process")
    options = parser.parse_args()
    try:
        if options.time_of:
            print(our_time(options.time_of[0], int(options.time_of[1])))
        elif options.times:
            times()
        elif options.folder is None:
            parser.error("give FOLDER, or --times")
        else:
            compare(options)
    except BgpmError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
