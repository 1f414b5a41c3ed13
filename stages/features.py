"""Stage features: stored states and texts become features, by a map fitted on the unlabelled pool only."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
from pydantic import Field

from bgpm.data.feature_blocks import write_blocks, write_pair_numbers
from bgpm.data.pair_columns import read_pair_columns
from bgpm.data.response_columns import read_numbers
from bgpm.data.tables import iterate_table, read_array, read_table, read_table_rows
from bgpm.features import FeatureSettings
from bgpm.features.blocks import built
from bgpm.features.blocks.columns import PoolColumns
from bgpm.features.reduction import Numbers, Reduction, read_states, sample
from bgpm.sections import Sections
from bgpm.stage import (
    COLUMNS,
    DATA,
    EMBEDDINGS,
    FEATURES,
    POOL,
    READS,
    TEXTS,
    run,
    whole_folder,
    write_json,
)
from bgpm.values import read_json


class Features(Sections):
    features: FeatureSettings
    mode: str = Field(alias="training.mode")


def main() -> None:
    read = Features.read()
    settings = read.features
    numbers = {which: response_numbers(which, settings) for which in ("pool", "benchmark")}
    reduction = fitted(settings, numbers["pool"])
    for which in ("pool", "benchmark"):
        with whole_folder(FEATURES / which) as folder:
            for name in ("responses", "prompts"):
                states = read_array(EMBEDDINGS / which / f"{name}.npy", mapped=True)
                chunks = texts(which, name, reduction.chunk(states), numbers[which])
                np.save(folder / f"{name}.npy", reduction.write(states, chunks))
            write_blocks(folder, reduction.blocks)
            pairs = len(read_table(DATA / which / "pairs.parquet", ["prompt"])["prompt"])
            found = [read_pair_columns(COLUMNS / "pool-pairs.parquet", COLUMNS / f"{which}-pairs.parquet", pairs)]
            found += [reduction.pairs(*pair_states(which, reduction))] if reduction.of_pairs else []
            known = [some for some in found if some is not None]
            write_pair_numbers(folder, np.hstack(known) if known else None)
            if which == "pool":
                reduction.save(folder / "reduction.safetensors")
                backbone = read_json(EMBEDDINGS / "pool" / "summary.json")["reads"]
                write_json(
                    folder / READS, {"map": reduction.digest, "features": settings.reading(), "backbone": backbone}
                )
    # Only a trained backbone reads the benchmark's texts while it trains: another benchmark is to re-run that, and no
    # training on frozen features.
    frozen = read.mode == "frozen"
    tables = [DATA / "benchmark" / f"{name}.parquet" for name in ("responses", "prompts")]
    write_json(TEXTS, None if frozen else {path.stem: sha256(path.read_bytes()).hexdigest() for path in tables})


def fitted(settings: FeatureSettings, numbers: Numbers) -> Reduction:
    """The map, fitted on responses to the pool's own prompts."""
    states = read_array(EMBEDDINGS / "pool" / "responses.npy", mapped=True)
    split = read_table(POOL / "prompts.parquet", ["split"])["split"]
    prompt = read_table(POOL / "responses.parquet", ["prompt"])["prompt"]
    rows = sample(settings, states, np.flatnonzero(split[prompt] == "pool"))
    some = read_table_rows(POOL / "responses.parquet", ["text"], rows)["text"]
    asked = read_table(POOL / "prompts.parquet", ["text"])["text"][prompt[rows]]
    own = {kind: found[rows] for kind, found in numbers.items()}
    reduction = Reduction.fit_on(settings, read_states(states, rows), list(some), list(asked), rows, own)
    if reduction.of_pairs is None:
        return reduction
    of_pool = np.flatnonzero(read_table(POOL / "pairs.parquet", ["split"])["split"] == "pool")
    return reduction.with_pairs(*pair_states("pool", reduction), of_pool)


def pair_states(which: str, reduction: Reduction) -> tuple[np.ndarray, np.ndarray | None]:
    """States and, where they are read, letters of a set's pairs, as the stage `embed` wrote them."""
    folder = EMBEDDINGS / which
    letters = read_array(folder / "letters.npy") if reduction.reads_letters else None
    return read_array(folder / "pairs.npy", mapped=True), letters


def response_numbers(which: str, settings: FeatureSettings) -> Numbers:
    """Numbers of a set's responses, by the kind of the block that reads them."""
    found = {}
    for kind, block in built(settings).items():
        if block.of_pairs:
            continue
        if isinstance(block, PoolColumns):
            found[kind] = read_numbers(COLUMNS / f"{which}.parquet", block.use, block.missing)
        elif block.given:
            found[kind] = read_array(EMBEDDINGS / which / f"{kind}.npy")
    return found


def texts(which: str, name: str, size: int, numbers: Numbers) -> Iterator[tuple[list[str], list[str], Numbers]]:
    """Texts of a set a chunk at a time, each with the prompt that it answers and a response's numbers."""
    path = DATA / which / f"{name}.parquet"
    if name == "prompts":
        for batch in iterate_table(path, ["text"], size):
            yield list(batch["text"]), [""] * len(batch["text"]), {}
        return
    asked = read_table(DATA / which / "prompts.parquet", ["text"])["text"]
    at = 0
    for batch in iterate_table(path, ["prompt", "text"], size):
        stop = at + len(batch["text"])
        own = {kind: found[at:stop] for kind, found in numbers.items()}
        yield list(batch["text"]), list(asked[batch["prompt"]]), own
        at = stop


if __name__ == "__main__":
    run(main)
