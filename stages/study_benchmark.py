"""Stage of the study: the benchmark that every pool is measured on besides its own held-out prompts."""

from __future__ import annotations

from bgpm.data.prepare import prepare_benchmark
from bgpm.data.schema import BenchmarkSettings
from bgpm.stage import STUDY, read_params, run, whole_folder
from bgpm.study import PARAMS, POOL_SEED, read_plan
from bgpm.study.pools import write_tables
from bgpm.study.sources import SOURCES


def main() -> None:
    plan = read_plan(read_params(PARAMS))
    tables, truth = prepare_benchmark(BenchmarkSettings(path=str(SOURCES / plan.benchmark)), POOL_SEED)
    with whole_folder(STUDY / "benchmark") as folder:
        write_tables(folder, tables, truth)


if __name__ == "__main__":
    run(main)
