"""Stage fork: an arm departs from the shared seed labels and model 0."""

from __future__ import annotations

import shutil

from bgpm.stage import START, round_dir, run


def main(arm: str) -> None:
    target = round_dir(arm, 0)
    target.mkdir(parents=True, exist_ok=True)
    for name in ("model", "evaluation"):
        shutil.copytree(START / name, target / name)
    shutil.copyfile(START / "labels.parquet", target / "labels.parquet")


if __name__ == "__main__":
    run(main)
