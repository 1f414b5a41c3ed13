"""Stage embed: every layer of the backbone for each distinct text of the pool or the benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, embed, load_backbone, on_disk, writes_date
from bgpm.data.tables import read_table
from bgpm.data.texts import TextSet
from bgpm.errors import LaunchError
from bgpm.launch import LauncherSettings, end_with_stage, launch, must_launch, own_cores, process_group, refuse_launched
from bgpm.registry import parse
from bgpm.stage import DATA, EMBEDDINGS, LIKELIHOOD, read_params, run, setting, whole_folder, write_json
from bgpm.types import LIKELIHOODS
from bgpm.values import read_json


def main(which: str, folder: str | None = None) -> None:
    """``python -m stages.embed pool``; processes that a launcher starts are given the folder to write into."""
    params = read_params()
    if folder is not None:
        end_with_stage()
        return work(params, which, Path(folder))
    launcher = parse(LauncherSettings, setting(params, "launcher"), "launcher")
    refuse_launched()
    with whole_folder(EMBEDDINGS / which) as part:
        if not must_launch(launcher):
            return work(params, which, part)
        parse(BackboneSettings, setting(params, "backbone"), "backbone")  # one error, not one a process
        launch(launcher, f"{__package__}.embed", [which, str(part)])
        if not (part / "summary.json").exists():  # written last
            raise LaunchError(f"launcher: {launcher.kind} ended well but {part} is not complete; see what it printed")
    return None


def work(params: dict, which: str, folder: Path) -> None:
    """Embed, alone or as one of several processes, of which the first writes."""
    import torch

    torch.set_num_threads(own_cores())
    likely = bool(read_json(LIKELIHOOD, "run `dvc repro check`").get("asked"))
    backbone = load_backbone(parse(BackboneSettings, setting(params, "backbone"), "backbone"), likelihood=likely)
    texts = TextSet.read(DATA / which)
    with process_group() as group:
        first = group is None or group.rank() == 0
        counts = {}
        ids = read_table(DATA / which / "prompts.parquet", ["prompt_id"])["prompt_id"]
        asked = [f"prompt {name}" for name in ids]
        of_responses = [asked[row] for row in texts.prompt]
        sets = {
            "responses": (texts.responses(), of_responses),
            "prompts": (texts.prompts(), asked),
        }
        for name, (items, names) in sets.items():
            shape = (len(items), backbone.layers, backbone.width)
            path = folder / f"{name}.npy"
            out = on_disk(path, shape) if first else None
            title, numbers, reader = f"embed {which} {name}", None, replace(backbone, language_model=None)
            if name == "responses" and likely:
                reader, numbers = backbone, np.empty((len(items), len(LIKELIHOODS))) if first else None
            counts[name] = embed(reader, items, out, title=title, group=group, names=names, likelihood=numbers)
            if out is not None:
                out.flush()
            if numbers is not None:
                np.save(folder / "likelihood.npy", numbers)
        if first:
            write_json(folder / "summary.json", counts | dated(backbone))


def dated(backbone: Backbone) -> dict[str, str]:
    """The day that the chat template was given, where it asks for one."""
    return {"template_date": backbone.template_date} if writes_date(backbone.tokenizer) else {}


if __name__ == "__main__":
    run(main)
