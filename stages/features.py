"""Stage features: stored states of every layer become features, by a map fitted on the unlabelled pool only."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from bgpm.data.tables import read_table
from bgpm.features import FeatureSettings
from bgpm.features.reduction import Reduction
from bgpm.registry import parse
from bgpm.stage import DATA, EMBEDDINGS, FEATURES, POOL, TEXTS, read_params, run, setting, whole_folder, write_json


def main() -> None:
    params = read_params()
    settings = parse(FeatureSettings, setting(params, "features"), "features")
    states = np.load(EMBEDDINGS / "pool" / "responses.npy", mmap_mode="r")
    responses = read_table(POOL / "responses.parquet", ["prompt", "text"])
    split = read_table(POOL / "prompts.parquet", ["split"])["split"]
    unlabelled = np.flatnonzero(split[responses["prompt"]] == "pool")
    reduction = Reduction.fit(settings, states, list(responses["text"]), unlabelled)
    for which in ("pool", "benchmark"):
        with whole_folder(FEATURES / which) as folder:
            for name in ("responses", "prompts"):
                texts = read_table(DATA / which / f"{name}.parquet", ["text"])["text"]
                states = np.load(EMBEDDINGS / which / f"{name}.npy", mmap_mode="r")
                np.save(folder / f"{name}.npy", reduction(states, list(texts)))
            if which == "pool":
                reduction.save(folder / "reduction.safetensors")
    # Only a trained backbone reads the benchmark's texts while it trains: another benchmark is to re-run that, and no
    # training on frozen features.
    frozen = setting(params, "training.mode") == "frozen"
    texts = [DATA / "benchmark" / f"{name}.parquet" for name in ("responses", "prompts")]
    write_json(TEXTS, None if frozen else {path.stem: sha256(path.read_bytes()).hexdigest() for path in texts})


if __name__ == "__main__":
    run(main)
