"""Stage check: refuse wrong parameters before any work starts."""

from __future__ import annotations

from bgpm.config import check
from bgpm.stage import DATA, read_params, run, write_text


def main() -> None:
    check(read_params())
    # Always the same words, so that what depends on this stage re-runs for its own reasons only.
    write_text(DATA / "checked", "params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
