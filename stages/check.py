"""Stage check: refuse wrong parameters before any work starts, and say which code each stage runs."""

from __future__ import annotations

from pathlib import Path

from bgpm.config import check
from bgpm.sources import fingerprint
from bgpm.stage import CODE, read_params, run, whole_folder


def main() -> None:
    check(read_params())
    with whole_folder(CODE) as folder:
        for script in sorted(Path("stages").glob("[a-z]*.py")):
            (folder / script.stem).write_text(fingerprint(script, Path()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
