"""Put the files that the study reads where its stages look for them.

For the command line::

    bgpm study FOLDER
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from bgpm.errors import BgpmError, DataError
from bgpm.stage import STUDY, read_params
from bgpm.study import PARAMS, StudyPlan, read_plan

SOURCES = STUDY / "sources"


def files(plan: StudyPlan) -> list[str]:
    """Names of every file that the plan reads, sorted."""
    split = [source for pool in plan.pools for source in plan.pool_plans[pool].sources]
    whole = [source for pool in plan.labelled.pools for source in plan.labelled.sources[pool]]
    return sorted({plan.benchmark, *(source.file for source in split + whole)})


def fetch(plan: StudyPlan, folder: Path, target: Path = SOURCES) -> None:
    """Copy the plan's files from a folder; a file that is there already with the same content is left alone.

    Raises:
        DataError: Naming every file that the folder lacks; nothing is copied then.
    """
    wanted = files(plan)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: no {', '.join(missing)}; `make study POOLS=FOLDER` needs the folder that holds the files named "
            f"in {PARAMS}: put them there, or take their pools out of `pools`"
        )
    target.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        if not (target / name).exists() or (target / name).read_bytes() != (folder / name).read_bytes():
            shutil.copyfile(folder / name, target / f"{name}.part")
            (target / f"{name}.part").replace(target / name)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``bgpm study``."""
    parser.add_argument("folder", metavar="FOLDER", help="the folder that holds the files named in the plan")


def run(given: argparse.Namespace) -> None:
    """Copy them; raises as `fetch`."""
    if not given.folder:
        raise DataError("no folder given: make study POOLS=FOLDER")
    fetch(read_plan(read_params(PARAMS)), Path(given.folder))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("usage: make study POOLS=FOLDER")
    try:
        fetch(read_plan(read_params(PARAMS)), Path(sys.argv[1]))
    except BgpmError as error:
        sys.exit(f"error: {error}")
