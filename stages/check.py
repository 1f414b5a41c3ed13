"""Stage check: refuse wrong parameters before any work starts, and say which code each stage runs."""

from __future__ import annotations

from pathlib import Path

from bgpm.config import arm, check
from bgpm.fingerprints import code_fingerprint
from bgpm.installed import ROOT
from bgpm.oracles import Oracle
from bgpm.registry import member
from bgpm.stage import ARMS, CODE, LIKELIHOOD, TRAINING, read_params, run, whole_folder, write_json
from bgpm.training import in_effect


def main() -> None:
    params = read_params()
    checked = check(params)
    write_json(TRAINING, in_effect(params, Path()))
    # What embeds depends on; how many pairs may be read is a limit, and another one re-runs nothing.
    reading = checked.features.pair_reading
    of_pairs = {} if reading is None else {"pair_states": reading.model_dump(exclude={"max_pairs"})}
    write_json(LIKELIHOOD, {"asked": "likelihood" in checked.features.blocks, **of_pairs})
    with whole_folder(ARMS) as folder:
        for name in {checked.acquisition, checked.baseline}:
            write_json(folder / f"{name}.json", arm(checked, name))
    worker = member(Oracle, checked.oracle, "oracle").worker
    with whole_folder(CODE) as folder:
        for script in sorted(Path(__file__).resolve().parent.glob("[a-z]*.py")):
            found = code_fingerprint(script.relative_to(ROOT), ROOT)
            if worker and script.stem == "label":
                found += " " + code_fingerprint(Path(*worker.split(".")).with_suffix(".py"), ROOT)
            (folder / script.stem).write_text(found + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
