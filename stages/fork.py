"""Stage fork: an arm departs from the shared seed labels and model 0."""

from __future__ import annotations

import shutil

from bgpm.stage import START, round_dir, run, whole_folder


def main(arm: str) -> None:
    target = round_dir(arm, 0)
    for name in ("model", "evaluation"):
        with whole_folder(target / name) as folder:
            shutil.copytree(START / name, folder, dirs_exist_ok=True)
    for name in ("labels.parquet", "audits.parquet", "pool_labels.parquet"):
        part = target / f"{name}.part"
        shutil.copyfile(START / name, part)
        part.replace(target / name)


if __name__ == "__main__":
    run(main)
