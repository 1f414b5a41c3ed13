"""Stage of the study: every layer of the backbone for each distinct text of all pools and the benchmark, once."""

from __future__ import annotations

import torch

from bgpm.backbones.embedding import embed, load_backbone, on_disk
from bgpm.data.tables import write_table
from bgpm.launch import own_cores
from bgpm.stage import STUDY, read_params, run, whole_folder, write_json
from bgpm.study import LABELLED, PARAMS, read_plan
from bgpm.study.texts import named_texts


def main() -> None:
    plan = read_plan(read_params(PARAMS))
    torch.set_num_threads(own_cores())
    known = {}
    split = [STUDY / "tables" / pool for pool in plan.pools]
    whole = [LABELLED / "tables" / pool for pool in plan.labelled.pools]
    for folder in (STUDY / "benchmark", *split, *whole):
        known |= named_texts(folder)
    backbone = load_backbone(plan.backbone)
    with whole_folder(STUDY / "embeddings") as folder:
        write_table(folder / "texts.parquet", {"id": list(known)})
        shape = (len(known), backbone.layers, backbone.width)
        out = on_disk(folder / "states.npy", shape)
        counts = embed(backbone, list(known.values()), out, title="embed all pools")
        out.flush()
        write_json(folder / "summary.json", counts)


if __name__ == "__main__":
    run(main)
