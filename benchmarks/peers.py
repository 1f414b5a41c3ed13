"""Beside what a user would otherwise run: other tools on the labels, backbone, splits and machine of the study.

``make peers POOLS=FOLDER`` makes an environment for each peer and runs all cells; ``python -m benchmarks.peers FOLDER``
with ``--pools``, ``--systems``, ``--labels`` and ``--seeds`` runs some. A cell is a system on a pool with so many
labels and a seed. Its result is kept in ``.peers/cells``, so that a run that was stopped goes on; one that other code
or settings made is run again. reports/peers.csv and reports/peers_ratio.csv are written from all that are kept: a line
without any is "not run". FOLDER holds the files of study/params.yaml. Texts are embedded once, in ``.peers``;
``--embeddings`` takes the states of an earlier study instead (its folder data/study/embeddings).

What is equal: pools, held-out prompts and features of study/params.yaml, the labels of each seed (one uniform draw of
the pool, of which fewer labels are the beginning), the backbone, one thread. A script of benchmarks/peer_scripts gets
the labels of its task alone, and gives P(response_a better) of each held-out pair; one function here scores all of
them. Each chooses its own prior, C or learning rate on its labels:

    bgpm, bgpm_rich         Bradley-Terry of the study's arm `random`, on states and statistics, or states and rich
    amortized               the paper's head, the study's arm `amortized_random`
    logistic                scikit-learn's logistic regression on last-layer embeddings; C by cross-validation
    logistic_features       the same on the features of bgpm
    laplace_torch           laplace-torch on the features of bgpm; prior by cross-validation, as bgpm does
    laplace_torch_evidence  the same; prior by the marginal likelihood
    trl_frozen, _lora, _full  TRL's RewardTrainer on the backbone; learning rate and epochs by validation labels, on
                            a seed before the first, once for all seeds

Seconds are CPU seconds to fit and to predict, without imports and reading; the first three kinds read features that
were made before. ``search_seconds`` are those of a search that all seeds share. The gain over bgpm has a 95% interval
over seeds and held-out prompts, both with the same draws; a handful of seeds makes it too narrow.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bgpm import functional as F
from bgpm.backbones.embedding import embed, load_backbone, on_disk, resolve
from bgpm.data.sheets import csv_text
from bgpm.data.tables import read_table, write_table
from bgpm.errors import BgpmError, ConfigError, StateError
from bgpm.evaluation.accuracy import correct
from bgpm.evaluation.labelled_pairs import Split, read_split
from bgpm.evaluation.savings import Trials, aulc_difference, isotonic, labels_to, resample
from bgpm.fingerprints import code_fingerprint
from bgpm.loop.evaluate import by_prompt
from bgpm.loop.pool import Pool
from bgpm.loop.start import start
from bgpm.oracles.recorded import Recorded
from bgpm.selection import StartSettings
from bgpm.stage import REPORTS, STUDY, generator, read_params, whole_folder, write_json, write_text
from bgpm.study import PARAMS, StudyPlan, read_plan
from bgpm.study.arm import oracle_labels
from bgpm.study.pools import features_of, fit_reduction, pool_numbers, states_of
from bgpm.study.sources import SOURCES
from bgpm.study.texts import named_texts
from bgpm.types import Features
from stages import study_pool

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".peers"
ENVIRONMENTS = ROOT / ".venv-peers"
SCRIPTS = ROOT / "benchmarks" / "peer_scripts"
POOLS = ("ukp", "alpaca_v1", "alpaca_v2", "hh_harmless")
ALL = "all"
COUNTS = ("64", "128", "320", "640", ALL)
REFERENCE, REACHED = "bgpm", "128"  # what labels_ratio asks others to reach
DRAWS = 2000
LEAST = 1e-15  # a probability that was rounded to 0 counts as this one
NOT_RUN = "not run"
MEASURES = ("accuracy", "nll", "ece", "seconds", "peak_mib")
COLUMNS = ("pool", "system", "labels", "seeds", *MEASURES, "search_seconds", "gain", "gain_low", "gain_high")
RATIO_COLUMNS = ("pool", "system", "target", "labels", "labels_ratio", "most_labels", "seeds")


@dataclass(frozen=True)
class System:
    """One way to learn from the labels.

    Attributes:
        script: Its file in benchmarks/peer_scripts, and its environment; ``ours`` runs in that of the project.
        reads: A set of features of study/params.yaml; or ``embeddings``, the last layer's states; or ``texts``.
        settings: Of the script.
        searched: Whether settings are chosen once for all seeds; its seeds then run one by one.
        seeds: How many by default.
    """

    script: str
    reads: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    searched: bool = False
    seeds: int = 10


SYSTEMS = {
    "bgpm": System("ours", "states_statistics", {"arm": "random"}),
    "bgpm_rich": System("ours", "states_rich", {"arm": "random"}),
    "amortized": System("ours", "states_statistics", {"arm": "amortized_random"}),
    "logistic": System("logistic", "embeddings"),
    "logistic_features": System("logistic", "states_statistics"),
    "laplace_torch": System("laplace_torch", "states_statistics", {"prior": "heldout"}),
    "laplace_torch_evidence": System("laplace_torch", "states_statistics", {"prior": "evidence"}),
    "trl_frozen": System("trl_reward", "texts", {"body": "frozen"}, searched=True, seeds=3),
    "trl_lora": System("trl_reward", "texts", {"body": "lora"}, searched=True, seeds=3),
    "trl_full": System("trl_reward", "texts", {"body": "full"}, searched=True, seeds=3),
}


@dataclass(frozen=True)
class Data:
    """One pool as every system sees it.

    Attributes:
        pool: Pairs, and features of any kind.
        label: Of every row of the pool's pairs, 0 or 1; NaN where it may not be acquired.
        heldout: Pairs that measure.
        texts: Prompt and response of each response.
        features: What systems read, by name; responses and prompts.
        origin: What it was made of, as a text that changes with it.
    """

    pool: Pool
    label: np.ndarray
    heldout: Split
    texts: Sequence[tuple[str, str]]
    features: Mapping[str, Features]
    origin: str

    def pool_of(self, reads: str) -> Pool:
        """The pool with the features of one name."""
        return Pool(self.pool.table, self.features[reads])

    def drawn(self, labels: str, seed: int) -> np.ndarray:
        """Rows of the labelled pairs: the beginning of one uniform draw of the whole pool."""
        everything = StartSettings(labels=len(self.pool.open))
        return start(everything, self.pool, generator=generator("start", seed))[: self.count(labels)]

    def count(self, labels: str) -> int:
        """How many labels that is.

        Raises:
            ConfigError: If the pool has fewer.
        """
        most = len(self.pool.open)
        if labels == ALL:
            return most
        if int(labels) > most:
            raise ConfigError(f"--labels {labels}: the pool has {most} pairs to label; ask for fewer, or for `{ALL}`")
        return int(labels)


def read_data(name: str, plan: StudyPlan, folder: Path, embeddings: Path | None) -> Data:
    """A pool of the study from its files; tables and states are made once, in `WORK`."""
    with chdir(WORK):
        if not (STUDY / "tables" / name).exists():
            study_pool.main(name)
        tables = STUDY / "tables" / name
        states_at = embeddings or own_embeddings(name, plan, tables)
        kinds = {kind: read_table(tables / f"{kind}.parquet") for kind in ("responses", "prompts")}
        states = states_of(states_at, tables)
        features = {"embeddings": Features(states["responses"][:, -1], states["prompts"][:, -1])}
        for which in sorted({system.reads for system in SYSTEMS.values()} & set(plan.feature_sets.plans)):
            settings = plan.feature_sets.plans[which]
            numbers = pool_numbers(settings, STUDY / "columns" / f"{name}.parquet")
            features[which] = features_of(fit_reduction(settings, kinds, states, numbers), kinds, states, numbers)
        pool = Pool(read_table(tables / "pairs.parquet"), features["embeddings"])
        files = [
            hashlib.sha256((folder / source.file).read_bytes()).hexdigest() for source in plan.pool_plans[name].sources
        ]
        made_of = [files, plan.pool_plans[name].model_dump(mode="json"), plan.backbone.model_dump(mode="json")]
        return Data(
            pool,
            oracle_labels(tables, pool, Recorded(), 0)["label"],
            read_split(tables, tables / "truth-heldout.parquet"),
            list(zip(kinds["prompts"]["text"][kinds["responses"]["prompt"]], kinds["responses"]["text"], strict=True)),
            features,
            json.dumps(made_of),
        )


def own_embeddings(name: str, plan: StudyPlan, tables: Path) -> Path:
    """States of a pool's texts, embedded unless they are there."""
    home = STUDY / "embeddings" / name
    if not home.exists():
        texts = named_texts(tables)
        backbone = load_backbone(plan.backbone)
        with whole_folder(home) as folder:
            write_table(folder / "texts.parquet", {"id": list(texts)})
            out = on_disk(folder / "states.npy", (len(texts), backbone.layers, backbone.width))
            embed(backbone, list(texts.values()), out, title=f"embed {name}")
            out.flush()
    return home


def key(system: System, settings: Mapping[str, Any], plan: StudyPlan, data: Data) -> str:
    """What a cell's result depends on beside pool, labels and seed: one that has another key is run again."""
    digest = hashlib.sha256()
    features = plan.feature_sets.plans.get(system.reads)
    asked = [system.reads, features and features.model_dump(mode="json"), dict(settings), data.origin]
    digest.update(json.dumps(asked, sort_keys=True).encode())
    for path in (SCRIPTS / "cell.py", SCRIPTS / f"{system.script}.py"):
        digest.update(path.read_bytes())
    if system.script == "ours":
        digest.update(code_fingerprint((SCRIPTS / "ours.py").relative_to(ROOT), ROOT).encode())
    else:
        digest.update((SCRIPTS / f"{system.script}.txt").read_bytes())
    return digest.hexdigest()


def write_task(
    folder: Path, system: System, settings: Mapping[str, Any], data: Data, labels: str, seeds: Sequence[int]
) -> None:
    """What a script reads; see `benchmarks.peer_scripts.cell`. It holds no label but those of its seeds' pairs."""
    rows = np.stack([data.drawn(labels, seed) for seed in seeds])
    told = np.unique(rows)
    pairs, heldout = data.pool.pairs.take(told), data.heldout.pairs
    arrays = {
        "pairs": np.column_stack([pairs.response_a, pairs.response_b, pairs.prompt]),
        "heldout": np.column_stack([heldout.response_a, heldout.response_b, heldout.prompt]),
        "labels": data.label[told],
        "rows": np.searchsorted(told, rows),
        "seeds": np.array(seeds),
    }
    if system.reads == "texts":
        lines = (json.dumps({"prompt": prompt, "response": response}) for prompt, response in data.texts)
        (folder / "texts.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    else:
        arrays |= {name: getattr(data.features[system.reads], name) for name in ("responses", "prompts")}
    np.savez(folder / "task.npz", **arrays)
    write_json(folder / "settings.json", settings)


def run_script(script: str, task: Path, log: Path, limit: float | None = None) -> None:
    """Run a peer on its task, in its environment.

    Args:
        limit: Seconds of wall time.

    Raises:
        StateError: If its environment was not made, or it ends with an error.
        subprocess.TimeoutExpired: If it takes longer than it may.
    """
    python = Path(sys.executable) if script == "ours" else ENVIRONMENTS / script / "bin" / "python"
    if not python.exists():
        raise StateError(f"{python} does not exist: run `make peers-environments`, which makes it from {script}.txt")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if script == "ours":
        environment["PYTHONPATH"] = str(ROOT)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        command = [str(python), str(SCRIPTS / f"{script}.py"), str(task)]
        done = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False, timeout=limit)
        status = done.returncode
    if status:
        last = (log.read_text(encoding="utf-8").strip().splitlines() or ["nothing was printed"])[-1]
        raise StateError(f"{script}.py ended with status {status}: {last}; all of it is in {log}")


def score(probability: np.ndarray, heldout: Split) -> dict[str, Any]:
    """Accuracy, negative log-likelihood (nats), ECE, and right responses by held-out prompt.

    Raises:
        StateError: If these are no probabilities of the held-out pairs.
    """
    if probability.shape != heldout.label.shape or not ((probability >= 0) & (probability <= 1)).all():
        raise StateError(
            f"expected {len(heldout.label)} probabilities in [0, 1], one for each held-out pair, got "
            f"{list(probability.shape)} from {probability.min()} to {probability.max()}; mend the peer's script"
        )
    right = correct(probability - 0.5, heldout.label, tie=0.5)
    p, y = torch.from_numpy(probability.clip(LEAST, 1 - LEAST)), torch.from_numpy(heldout.label)
    return {
        "accuracy": float(np.nanmean(right)),
        "nll": float(F.negative_log_likelihood(p, y)),
        "ece": float(F.expected_calibration_error(p, y)),
        "prompts": {name: column.tolist() for name, column in by_prompt(heldout.pairs.prompt, right).items()},
    }


def run_cells(
    name: str, pool: str, labels: str, seeds: Sequence[int], plan: StudyPlan, data: Data, work: Path = WORK
) -> None:
    """Run the seeds of one system that have no result yet; raises as `run_script` and `score`."""
    system, folder = SYSTEMS[name], cell_folder(work, pool, name, labels)
    settings = settings_of(system, plan)
    made_of = key(system, settings, plan, data)
    missing = [seed for seed in seeds if read_cell(folder / f"{seed}.json", made_of) is None]
    if not missing:
        return
    if system.searched:
        settings |= {"chosen": searched(system, settings, made_of, folder, data, labels, plan.first_seed - 1)}
    for batch in [[seed] for seed in missing] if system.searched else [missing]:
        with tempfile.TemporaryDirectory(dir=work) as place:
            task = Path(place)
            write_task(task, system, settings, data, labels, batch)
            run_script(system.script, task, folder / "log.txt")
            with np.load(task / "predictions.npz") as found:
                for row, seed in enumerate(batch):
                    scored = score(found["probability"][row], data.heldout)
                    cost = {"seconds": float(found["seconds"][row]), "peak_mib": float(found["peak_mib"])}
                    write_json(folder / f"{seed}.json", {"key": made_of, **scored, **cost})


def searched(
    system: System, settings: Mapping[str, Any], made_of: str, folder: Path, data: Data, labels: str, seed: int
) -> dict[str, Any]:
    """Settings chosen on the labels of a seed that is not reported, kept beside the cells."""
    path = folder / "search.json"
    found = read_cell(path, made_of)
    if found is None:
        with tempfile.TemporaryDirectory(dir=folder.parents[3]) as place:
            task = Path(place)
            write_task(task, system, settings, data, labels, [seed])
            run_script(system.script, task, folder / "log.txt")
            found = json.loads((task / "chosen.json").read_text(encoding="utf-8"))
        write_json(path, {"key": made_of, **found})
    return {name: value for name, value in found.items() if name not in ("key", "losses", "seconds")}


def settings_of(system: System, plan: StudyPlan) -> dict[str, Any]:
    """The script's settings, with what it needs of the plan."""
    settings = dict(system.settings)
    if system.script == "ours":
        settings["arm"] = plan.arm_plans[settings["arm"]].model_dump(mode="json")
    if system.reads == "texts":
        settings["backbone"] = resolve(plan.backbone.path)
    return settings


def cell_folder(work: Path, pool: str, system: str, labels: str) -> Path:
    """Where results of one system on one pool with so many labels lie, a file a seed."""
    return work / "cells" / pool / system / labels


def read_cell(path: Path, made_of: str | None = None) -> dict[str, Any] | None:
    """A kept result; None where there is none, or it was made of something else."""
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if made_of in (None, found["key"]) else None


def cells(work: Path, pool: str, system: str, labels: str) -> dict[int, dict[str, Any]]:
    """All results of one system on one pool with so many labels, by seed."""
    paths = cell_folder(work, pool, system, labels).glob("*.json")
    numbered = sorted(int(path.stem) for path in paths if path.stem.isdigit())
    read = {seed: read_cell(cell_folder(work, pool, system, labels) / f"{seed}.json") for seed in numbered}
    return {seed: found for seed, found in read.items() if found is not None}


def trials(found: Sequence[Mapping[str, Any]]) -> Trials:
    """Right responses by held-out prompt as one point of a curve, for the bootstrap."""
    right = np.array([cell["prompts"]["right"] for cell in found])[:, None]
    return Trials(np.ones(1), right, np.array(found[0]["prompts"]["pairs"]))


def rows(work: Path) -> list[list[object]]:
    """Lines of peers.csv, for every cell of the whole comparison."""
    out = []
    for pool in POOLS:
        for name in SYSTEMS:
            for labels in COUNTS:
                mine, reference = cells(work, pool, name, labels), cells(work, pool, REFERENCE, labels)
                if not mine:
                    out.append([pool, name, labels, 0, *[NOT_RUN] * (len(COLUMNS) - 4)])
                    continue
                means = {measure: np.mean([cell[measure] for cell in mine.values()]) for measure in MEASURES}
                rounded = [f"{means[m]:.4f}" for m in ("accuracy", "nll", "ece")]
                search = read_cell(cell_folder(work, pool, name, labels) / "search.json")
                costs = [
                    f"{means['seconds']:.2f}",
                    f"{means['peak_mib']:.0f}",
                    f"{search['seconds']:.0f}" if search else "0",
                ]
                compared = gain(mine, reference, generator("peers", pool, name, labels))
                out.append([pool, name, labels, len(mine), *rounded, *costs, *compared])
    return out


def gain(
    mine: Mapping[int, dict[str, Any]], reference: Mapping[int, dict[str, Any]], rng: np.random.Generator
) -> list[str]:
    """Accuracy over the reference's on the seeds that both have, and its interval; empty where it is the reference."""
    both = sorted(set(mine) & set(reference))
    if not both or all(mine[seed] == reference[seed] for seed in both):
        return ["", "", ""]
    own, theirs = (trials([found[seed] for seed in both]) for found in (mine, reference))
    difference = aulc_difference(resample(own, theirs, DRAWS, rng))
    ends = (difference.interval.low, difference.interval.high) if difference.interval else None
    return [f"{value:.4f}" for value in (difference.value, *(ends or ()))] + [""] * (0 if ends else 2)


def ratio_rows(work: Path) -> list[list[object]]:
    """Lines of peers_ratio.csv: labels each system needs for what the reference reaches with `REACHED` labels.

    Read off curves that were made monotone, by linear interpolation, on the seeds that both have. The whole pool is
    no point of a curve: how many labels it is differs from pool to pool.
    """
    out: list[list[object]] = []
    counts = [labels for labels in COUNTS if labels != ALL]
    for pool in POOLS:
        curves = {name: {labels: cells(work, pool, name, labels) for labels in counts} for name in SYSTEMS}
        for name, curve in curves.items():
            run = [labels for labels in counts if curve[labels]]
            seeds = set.intersection(*(set(curve[labels]) for labels in run)) if run else set()
            base = [labels for labels in counts if seeds and seeds <= set(curves[REFERENCE][labels])]
            if not run or REACHED not in base:
                out.append([pool, name, *[NOT_RUN] * (len(RATIO_COLUMNS) - 3), 0])
                continue
            target = isotonic(mean_curve(curves[REFERENCE], base, seeds))[base.index(REACHED)]
            numbers = np.array(run, float)
            needed = float(labels_to(numbers, isotonic(mean_curve(curve, run, seeds)), target))
            out.append([pool, name, f"{target:.4f}", *spoken(needed, numbers), run[-1], len(seeds)])
    return out


def mean_curve(
    curve: Mapping[str, Mapping[int, Mapping[str, Any]]], counts: Sequence[str], seeds: set[int]
) -> np.ndarray:
    """Accuracy by label count, the mean over seeds."""
    return np.array([np.mean([curve[labels][seed]["accuracy"] for seed in sorted(seeds)]) for labels in counts])


def spoken(needed: float, numbers: np.ndarray) -> tuple[str, str]:
    """Labels to the target and their ratio, as a table has them."""
    if np.isinf(needed):
        return "not reached", "not reached"
    at_most = "at most " if needed == numbers[0] else ""  # with fewer nobody looked
    return f"{at_most}{needed:.0f}", f"{at_most}{needed / int(REACHED):.2f}"


def write_reports(work: Path = WORK) -> None:
    """Both tables, from all results that are there."""
    write_text(ROOT / REPORTS / "peers.csv", csv_text(COLUMNS, rows(work)))
    write_text(ROOT / REPORTS / "peers_ratio.csv", csv_text(RATIO_COLUMNS, ratio_rows(work)))


def chosen(asked: Sequence[str] | None, known: Sequence[str], option: str) -> list[str]:
    """What an option asks for; ConfigError for a name that nothing has."""
    for name in asked or ():
        if name not in known:
            raise ConfigError(f"{option}: nothing is called {name!r}; there are {', '.join(known)}")
    return list(asked or known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder that holds the study's files of pools")
    parser.add_argument("--pools", nargs="+", metavar="POOL", help=f"which of {', '.join(POOLS)}")
    parser.add_argument("--systems", nargs="+", metavar="SYSTEM", help=f"which of {', '.join(SYSTEMS)}")
    parser.add_argument("--labels", nargs="+", metavar="LABELS", help=f"which of {', '.join(COUNTS)}")
    parser.add_argument("--seeds", type=int, help="how many; 10 by default, 3 where the backbone is trained")
    parser.add_argument("--embeddings", type=Path, metavar="FOLDER", help="states of an earlier study")
    options = parser.parse_args()
    try:
        sys.exit(run(options))
    except BgpmError as error:
        sys.exit(f"error: {error}")


def run(options: argparse.Namespace) -> int:
    """Run what is asked for and write the reports; 1 if a system failed, which leaves the others as they are."""
    pools = chosen(options.pools, POOLS, "--pools")
    systems = chosen(options.systems, list(SYSTEMS), "--systems")
    counts = chosen(options.labels, COUNTS, "--labels")
    plan = read_plan(read_params(ROOT / PARAMS))
    prepare_work(options.folder)
    failed = 0
    for pool in pools:
        data = read_data(pool, plan, options.folder.resolve(), options.embeddings and options.embeddings.resolve())
        for name in systems:
            seeds = range(plan.first_seed, plan.first_seed + (options.seeds or SYSTEMS[name].seeds))
            for labels in counts:
                print(f"{pool} {name} {labels}", file=sys.stderr, flush=True)
                try:
                    run_cells(name, pool, labels, seeds, plan, data)
                except StateError as error:
                    print(f"error: {name} on {pool} with {labels} labels: {error}", file=sys.stderr, flush=True)
                    failed = 1
                write_reports()
    return failed


def prepare_work(folder: Path) -> None:
    """A folder in which the study's stages find its settings and the files of pools.

    Raises:
        StateError: If the folder of pools does not exist.
    """
    if not folder.is_dir():
        raise StateError(f"{folder}: no such folder; give the one that holds the files named in {PARAMS}")
    (WORK / PARAMS).parent.mkdir(parents=True, exist_ok=True)
    raw = yaml.safe_load((ROOT / PARAMS).read_text(encoding="utf-8"))
    (WORK / PARAMS).write_text(yaml.safe_dump(raw), encoding="utf-8")
    (WORK / SOURCES).parent.mkdir(parents=True, exist_ok=True)
    (WORK / SOURCES).unlink(missing_ok=True)
    (WORK / SOURCES).symlink_to(folder.resolve())


if __name__ == "__main__":
    main()
