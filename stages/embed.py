"""Stage embed: every layer of the backbone for each distinct text of the pool or the benchmark."""

from __future__ import annotations

import json
import os

import numpy as np
import torch

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import embed, load_backbone
from bgpm.data.tables import read_table
from bgpm.registry import parse
from bgpm.stage import DATA, EMBEDDINGS, read_params, run, setting, whole_folder, write_json


def main(which: str) -> None:
    settings = parse(BackboneSettings, setting(read_params(), "backbone"), "backbone")
    torch.set_num_threads(os.cpu_count() or 1)
    backbone = load_backbone(settings)
    prompts = read_table(DATA / which / "prompts.parquet", ["messages"])
    conversations = [json.loads(text) for text in prompts["messages"]]
    responses = read_table(DATA / which / "responses.parquet", ["prompt", "text"])
    answers = [(conversations[row], text) for row, text in zip(responses["prompt"], responses["text"], strict=True)]
    with whole_folder(EMBEDDINGS / which) as folder:
        counts = {}
        for name, texts in {"responses": answers, "prompts": [(c, None) for c in conversations]}.items():
            shape = (len(texts), backbone.layers, backbone.width)
            out = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=shape)
            counts[name] = embed(backbone, texts, out, title=f"embed {which} {name}")
            out.flush()
        write_json(folder / "summary.json", counts)


if __name__ == "__main__":
    run(main)
