"""Stage package of a campaign outside the repository: which bgpm is installed, and whether the pipeline is its own."""

from __future__ import annotations

from pathlib import Path

from bgpm.installed import PACKAGE, check_pipeline, fingerprint
from bgpm.stage import run, write_json


def main() -> None:
    check_pipeline(Path("dvc.yaml"))
    write_json(PACKAGE, fingerprint())


if __name__ == "__main__":
    run(main)
