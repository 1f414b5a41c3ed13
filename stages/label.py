"""Stage label: ask the oracle for a batch's labels and add them to what is known."""

from __future__ import annotations

from bgpm.data.tables import concatenate, read_table, write_table
from bgpm.errors import LabelsPendingError
from bgpm.loop.label import label
from bgpm.oracles import Oracle, OracleFiles
from bgpm.registry import build
from bgpm.stage import (
    ANNOTATIONS,
    POOL,
    START,
    TRUTH,
    WAITING,
    read_params,
    round_dir,
    run,
    setting,
    write_json,
)


def main(arm: str, k: str = "0") -> None:
    params = read_params()
    kind = setting(params, "oracle")
    oracle = build(Oracle, kind, setting(params, f"oracles.{kind}"), "oracles")
    here = round_dir(arm, k)
    files = OracleFiles(TRUTH / "pool.parquet", ANNOTATIONS, here / "batch.parquet", POOL)
    batch = read_table(files.batch)
    first = arm == "start"
    try:
        acquired = label(oracle, batch, files, number=0 if first else int(k) + 1)
    except LabelsPendingError as error:
        if error.pairs:
            write_json(here / WAITING, {"pairs": error.pairs})
        raise
    if first:
        write_table(START / "labels.parquet", acquired)
    else:
        known = read_table(here / "labels.parquet", list(acquired))
        write_table(round_dir(arm, int(k) + 1) / "labels.parquet", concatenate([known, acquired]))
    (here / WAITING).unlink(missing_ok=True)


if __name__ == "__main__":
    run(main)
