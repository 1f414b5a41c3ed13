"""Features of many texts: CPU time and peak memory of the stage ``features``, from stored layers to written features.

Synthetic layers of the shape of the default backbone (7 of 384) and short texts; 20,000 distinct ones, repeated. The
reference is a fifth of the texts, so that "times faster" near 1 says that time grows no faster than their number.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks._table import Line, main, peak_mib, seconds

LAYERS, WIDTH, DISTINCT = 7, 384, 20_000
TEXTS = 1_000_000
WORDS = "a plain text of some words - with *marks*, 12 digits\n- and items. Is it long? no! As an answer it is short."


def workspace(folder: Path, count: int) -> None:
    """Tables and layers of a pool of so many responses and an empty benchmark, as earlier stages would leave them."""
    from bgpm.data.tables import write_table
    from bgpm.stage import DATA, EMBEDDINGS

    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(100, LAYERS * WIDTH)).astype(np.float32)
    block = rng.normal(size=(min(DISTINCT, count), 100)).astype(np.float32) @ mixing
    for which, responses in (("pool", count), ("benchmark", 4)):
        prompts = max(1, responses // 4)
        numbers = np.arange(responses)
        texts = [WORDS[n % 50 : 60 + n % 47] * (1 + n % 5) for n in numbers.tolist()]
        write_table(folder / DATA / which / "responses.parquet", {"prompt": numbers // 4 % prompts, "text": texts})
        asked = [f"What is text {n}?" for n in range(prompts)]
        write_table(folder / DATA / which / "prompts.parquet", {"text": asked, "split": ["pool"] * prompts})
        write_table(folder / DATA / which / "pairs.parquet", {"prompt": np.arange(prompts)})
        for name, rows in (("responses", responses), ("prompts", prompts)):
            path = folder / EMBEDDINGS / which / f"{name}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            header = np.lib.format.header_data_from_array_1_0(np.empty((0, LAYERS, WIDTH), np.float32))
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (rows, LAYERS, WIDTH)})
                for start in range(0, rows, len(block)):
                    file.write(block[: rows - start].reshape(-1, LAYERS, WIDTH).tobytes())
        (folder / EMBEDDINGS / which / "summary.json").write_text('{"reads": {}}', encoding="utf-8")
    (folder / "params.yaml").write_text(PARAMS, encoding="utf-8")


PARAMS = """
features: {blocks: [states, statistics, rich], states: {pca: 64}}
training: {mode: frozen}
"""


def cpu(count: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds of the stage on so many texts."""
    from stages import features

    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder, contextlib.chdir(folder):
        if os.fork() == 0:  # so that making the layers counts for nothing
            workspace(Path(folder), count)
            os._exit(0)
        if os.wait()[1]:
            raise RuntimeError("the layers could not be written")
        return seconds(features.main)


def features_case(scale: float) -> Line:
    """The whole stage."""
    count = max(1000, round(TEXTS * scale))
    small = cpu(count // 5)[1]
    before = peak_mib()
    wall, spent = cpu(count)
    return Line(
        f"stage features, {count:,} texts", wall, spent, before, peak_mib(), "a fifth of them", small, 5 * small / spent
    )


CASES = {"features": features_case}

if __name__ == "__main__":
    main("benchmarks.features", __doc__ or "", CASES)
