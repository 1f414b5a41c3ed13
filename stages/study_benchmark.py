"""Stage of the study: the benchmark that every pool is measured on besides its own held-out prompts."""

from __future__ import annotations

import numpy as np

from bgpm.backbones.embedding import load_backbone
from bgpm.data.prepare import prepare_benchmark
from bgpm.data.schema import BenchmarkSettings
from bgpm.stage import STUDY, read_params, run, whole_folder
from bgpm.study import PARAMS, POOL_SEED, read_plan
from bgpm.study.pools import states, write_tables
from bgpm.study.sources import SOURCES


def main() -> None:
    plan = read_plan(read_params(PARAMS))
    settings = BenchmarkSettings(path=str(SOURCES / plan.benchmark))
    with whole_folder(STUDY / "benchmark") as folder:
        tables, truth = prepare_benchmark(settings, POOL_SEED)
        write_tables(folder, tables, truth)
        for name, values in states(load_backbone(plan.backbone), tables, "benchmark").items():
            np.save(folder / f"states-{name}.npy", values)


if __name__ == "__main__":
    run(main)
