"""Does fine-tuning the backbone beat frozen features? One model of the same labels with the backbone frozen, with LoRA
adapters, and with every weight trained.

``python -m benchmarks.finetune [POOL.jsonl.gz ...]`` writes reports/finetune.md, first for the pool of params.yaml (the
shipped corpus), then for each file given. It runs the stages of `offline/pipeline.yaml` in a temporary project, with
params.yaml but for section ``training`` and without a benchmark, and measures on held-out prompts. What is equal
between the modes: held-out prompts, each seed's labels (a draw of ``--labels`` of the pool's, or all), model, posterior
and the map to features. A trained backbone stops early by `training.holdout` of the labelled prompts, and never sees a
held-out one; the posterior is then fitted on all labels, in every mode.

Learning rates are `RATES`, those usual for encoders of this size; neither they nor the number of epochs were chosen by
what is reported. The spread is the standard deviation over seeds. The interval is that of the report: seeds and
held-out prompts drawn again, both modes sharing every draw; few seeds or few prompts make it too narrow. Seconds and
memory are those of stage `train`, a process of its own, divided by seeds; to embed a pool with a frozen backbone,
which every mode needs once, is stated apart, to embed it again with a trained one is part of its training. Wall time
depends on what else the machine does. A trained backbone takes every core that there is, whatever OMP_NUM_THREADS says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks._table import seconds
from bgpm.data.tables import concatenate, read_table, rows_of, where, write_table
from bgpm.errors import BgpmError
from bgpm.evaluation.arm import Arm, read_arm
from bgpm.evaluation.savings import aulc_difference, resample
from bgpm.stage import OFFLINE, POOL, TIMINGS, TRUTH, generator, read_params
from bgpm.study import POOL_SEED
from stages import check, embed, evaluate, features, prepare

ROOT = Path(__file__).resolve().parents[1]
REPORT = Path("reports") / "finetune.md"
RATES = {"lora": 2e-4, "full": 2e-5}
DRAWS = 2000
NO_BENCHMARK = {"prompt": "none", "chosen": "yes", "rejected": "no", "subset": "none"}  # stages embed and measure one
COLUMNS = (
    "backbone", "held-out accuracy", "against frozen, points (95%)", "NLL, nats", "ECE", "updates (kept)",
    "loss it stopped by", "wall s", "CPU s", "peak MiB",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One mode on one pool.

    Attributes:
        arm: Results by seed, one point of a curve.
        learnt: For each seed what training the backbone says of itself; empty while it is frozen.
        cost: Stage `train` for all seeds: seconds, cpu_seconds, peak_mib.
    """

    arm: Arm
    learnt: list[dict[str, float]]
    cost: dict[str, float]

    def metric(self, name: str) -> np.ndarray:
        """On all held-out pairs, [seeds]."""
        return self.arm.values["heldout", "all", name][:, -1]


def draw_labels(seeds: Sequence[int], count: int) -> None:
    """Write as many labels of the pool for each seed, a uniform draw of its own; all of them where there are fewer."""
    table = read_table(POOL / "pairs.parquet", ["pair_id"])
    truth = read_table(TRUTH / "pool.parquet", ["pair_id", "label", "margin"])
    known = np.flatnonzero(~np.isnan(truth["label"]))
    parts = []
    for seed in seeds:
        drawn = np.sort(generator("finetune labels", seed).permutation(known)[:count])
        told = where(truth, drawn)
        about = {"seed": seed, "round": 0, "value": np.nan, "mean": np.nan, "variance": np.nan}  # no model chose them
        parts.append(
            {name: np.full(len(drawn), value) for name, value in about.items()}
            | {"pair": rows_of(table["pair_id"], told["pair_id"], str(POOL))}
            | told
        )
    write_table(OFFLINE / "labels.parquet", concatenate(parts))


def measure(params: Mapping[str, Any], training: Mapping[str, Any]) -> Measured:
    """Train and evaluate one mode in the current folder, whose pool, features and labels are there."""
    Path("params.yaml").write_text(yaml.safe_dump({**params, "training": dict(training)}), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "stages.train", "offline"], env=environment, check=True)
    cost = json.loads((TIMINGS / "train-offline.json").read_text(encoding="utf-8"))
    evaluate.main("offline")
    summary = json.loads((OFFLINE / "model" / "summary.json").read_text(encoding="utf-8"))
    learnt = [seed["backbone"] for seed in summary.values() if "backbone" in seed]
    return Measured(read_arm(training["mode"], OFFLINE), learnt, cost)


def cells(mode: str, found: Measured, frozen: Measured) -> list[str]:
    """One line of the table."""
    seeds = len(found.arm.seeds)
    difference = "0"
    if found is not frozen:
        gained = aulc_difference(resample(found.arm.trials, frozen.arm.trials, DRAWS, generator("finetune", mode)))
        difference = f"{100 * gained.value:+.1f}"
        if gained.interval is not None:
            difference += f" ({100 * gained.interval.low:+.1f} to {100 * gained.interval.high:+.1f})"
    learnt = {name: [seed[name] for seed in found.learnt] for name in (found.learnt or [{}])[0]}
    return [
        mode,
        spread(found.metric("accuracy")),
        difference,
        spread(found.metric("nll")),
        spread(found.metric("ece")),
        f"{np.mean(learnt['updates']):.0f} ({np.mean(learnt['updates_kept']):.0f})" if learnt else "none",
        spread(np.array(learnt["stopping_loss"])) if "stopping_loss" in learnt else "none",
        f"{found.cost['seconds'] / seeds:.1f}",
        f"{found.cost['cpu_seconds'] / seeds:.1f}",
        f"{found.cost['peak_mib']:.0f}",
    ]


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds."""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def section(name: str, params: Mapping[str, Any], modes: Sequence[str], labels: int) -> list[str]:
    """The table of one pool, made in the current folder."""
    frozen_training = {**params["training"], "mode": "frozen"}
    Path("params.yaml").write_text(yaml.safe_dump({**params, "training": frozen_training}), encoding="utf-8")
    Path(params["benchmark"]["path"]).write_text(json.dumps(NO_BENCHMARK) + "\n", encoding="utf-8")
    check.main()
    prepare.main()
    wall, cpu = seconds(lambda: embed.main("pool"))
    embed.main("benchmark")
    features.main()
    draw_labels(params["seeds"], labels)
    found = {"frozen": measure(params, frozen_training)}
    for mode in modes:
        found[mode] = measure(params, {**params["training"], "mode": mode, "learning_rate": RATES[mode]})
        print(" | ".join(cells(mode, found[mode], found["frozen"])), file=sys.stderr, flush=True)
    frozen = found["frozen"]
    trials, split = frozen.arm.trials, read_table(POOL / "prompts.parquet", ["split"])["split"]
    lines = [
        f"## {name}",
        "",
        f"{trials.labels[-1]:.0f} labels a seed, of a pool of {(split == 'pool').sum()} prompts; measured on "
        f"{trials.pairs.sum():.0f} pairs of {len(trials.pairs)} held-out prompts, of which the length rule gets "
        f"{spread(frozen.metric('length_rule'))} right. Embedding the pool with the frozen backbone: "
        f"{wall:.1f} s ({cpu:.1f} CPU s), once.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
        *(f"| {' | '.join(cells(mode, measured, frozen))} |" for mode, measured in found.items()),
    ]
    for mode in modes:
        gained = 100 * (found[mode].metric("accuracy") - frozen.metric("accuracy"))
        lines += ["", f"{mode} against frozen by seed, points: {', '.join(f'{value:+.1f}' for value in gained)}."]
    return lines


def _spoken(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()).lower()


def heading(params: Mapping[str, Any], modes: Sequence[str]) -> list[str]:
    """How and where the tables were made."""
    threads = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("OMP_")]
    told = shlex.join(Path(word).name if Path(word).is_file() else word for word in sys.argv[1:])
    command = " ".join([*threads, "python -m benchmarks.finetune", told]).strip()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    training, backbone = params["training"], params["backbone"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # those it may use
    rates = ", ".join(f"{RATES[mode]:g} ({mode})" for mode in modes)
    return [
        "# Fine-tuning against frozen features",
        "",
        f"Made by `{command}` on {cores} of {os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()}, {versions}. Backbone {Path(backbone['path']).name}, {backbone['dtype']}, "
        f"{backbone['max_tokens']} tokens, features {_spoken(params['features'])}; "
        f"model {params['model']}, posterior {params['posterior']}; "
        f"seeds {', '.join(map(str, params['seeds']))}; learning rates {rates}; trained in "
        f"{'bfloat16' if training['bf16'] else 'float32'}, {training['epochs']:g} epochs of batches of "
        f"{training['batch_size']}, adapters of rank {training['lora']['rank']}, {training['holdout']:g} of the "
        "labelled prompts to stop early by. What is compared, and how, stands at the top of the module.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", type=Path, metavar="POOL", help="further pools, files of any pair shape")
    parser.add_argument("--labels", type=int, default=1000, help="for each seed; all of a pool that has fewer")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2.0, help="passes over the labels")
    parser.add_argument("--bf16", action="store_true", help="as training.bf16: faster where the processor knows it")
    parser.add_argument("--mode", action="append", choices=sorted(RATES), help="beside frozen; all by default")
    parser.add_argument("--output", type=Path, default=REPORT)
    given = parser.parse_args()
    if given.labels < 1 or given.seeds < 1:
        parser.error(f"--labels {given.labels} --seeds {given.seeds}: expected 1 or more of each")
    params, modes = read_params(), given.mode or list(RATES)
    params["seeds"] = list(range(given.seeds))
    params["training"] |= {"epochs": given.epochs, "steps": None, "bf16": given.bf16}
    params["benchmark"] |= {"path": "benchmark.jsonl", "hub": None, "kind": "pairs"}
    for part in (params["pool"], params["backbone"]):
        if Path(part["path"]).exists():  # relative to the folder that this runs in
            part["path"] = str(Path(part["path"]).absolute())
    pools = [(params["pool"]["hub"] or Path(params["pool"]["path"]).name, params["pool"])]
    for path in given.pools:  # held-out prompts are the study's
        pools.append((path.name, {**params["pool"], "path": str(path.absolute()), "hub": None, "seed": POOL_SEED}))
    output, text = given.output.absolute(), heading(params, modes)
    output.parent.mkdir(parents=True, exist_ok=True)
    for name, pool in pools:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            text += ["", *section(name, {**params, "pool": pool}, modes, given.labels)]
        output.write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    try:
        main()
    except BgpmError as error:
        sys.exit(f"error: {error}")
