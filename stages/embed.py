"""Stage embed: every layer of the backbone for each distinct text of a set, and for its pairs where asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, embed, load_backbone, on_disk, writes_date
from bgpm.backbones.pairs import PairText, embed_pairs, require_few
from bgpm.data.tables import read_table
from bgpm.data.texts import TextSet
from bgpm.errors import LaunchError
from bgpm.features import FeatureSettings
from bgpm.launch import LauncherSettings, end_with_stage, launch, must_launch, own_cores, process_group, refuse_launched
from bgpm.sections import Sections
from bgpm.stage import DATA, EMBEDDINGS, LIKELIHOOD, run, whole_folder, write_json
from bgpm.types import LIKELIHOODS
from bgpm.values import read_json


class Embed(Sections):
    backbone: BackboneSettings
    # No dependencies: where the work is done, and a limit on it; data/likelihood.json has what of the features counts.
    launcher: LauncherSettings
    features: FeatureSettings


def main(which: str, folder: str | None = None) -> None:
    """``python -m stages.embed pool``; processes that a launcher starts are given the folder to write into."""
    settings = Embed.read()
    if folder is not None:
        end_with_stage()
        return work(settings.backbone, which, Path(folder))
    launcher = settings.launcher
    refuse_launched()
    refuse_many_pairs(settings.features, which)
    with whole_folder(EMBEDDINGS / which) as part:
        if not must_launch(launcher):
            return work(settings.backbone, which, part)
        launch(launcher, f"{__package__}.embed", [which, str(part)])
        if not (part / "summary.json").exists():  # written last
            raise LaunchError(f"launcher: {launcher.kind} ended well but {part} is not complete; see what it printed")
    return None


def work(settings: BackboneSettings, which: str, folder: Path) -> None:
    """Embed, alone or as one of several processes, of which the first writes."""
    import torch

    torch.set_num_threads(own_cores())
    asked_for = read_json(LIKELIHOOD, "run `dvc repro check`")
    likely, of_pairs = bool(asked_for.get("asked")), asked_for.get("pair_states")
    backbone = load_backbone(settings, likelihood=likely, letters=bool(of_pairs and of_pairs["letters"]))
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
        if of_pairs:
            pairs = pair_texts(which, texts)
            out = on_disk(folder / "pairs.npy", (len(pairs), backbone.layers, backbone.width)) if first else None
            letters = np.zeros((len(pairs), 1)) if first and of_pairs["letters"] else None
            counts["pairs"] = embed_pairs(
                backbone, pairs, of_pairs["template"], out, letters,
                asks=of_pairs["letters"], title=f"embed {which} pairs", group=group,
            )  # fmt: skip
            if out is not None:
                out.flush()
            if letters is not None:
                np.save(folder / "letters.npy", letters)
        if first:
            write_json(folder / "summary.json", counts | {"reads": settings.reading()} | dated(backbone))


def refuse_many_pairs(settings: FeatureSettings, which: str) -> None:
    """ConfigError before any work if pairs are to be read and there are more than `features.pair_states.max_pairs`."""
    reading = settings.pair_reading
    if reading is not None:
        pairs = len(read_table(DATA / which / "pairs.parquet", ["prompt"])["prompt"])
        require_few(pairs, reading.max_pairs, f"the {which}")


def pair_texts(which: str, texts: TextSet) -> list[PairText]:
    """Both responses of each pair with their conversation, in the order of the table."""
    table = read_table(DATA / which / "pairs.parquet", ["prompt", "response_a", "response_b"])
    said = texts.response_texts.tolist()
    return [
        (texts.conversations[prompt], said[a], said[b])
        for prompt, a, b in zip(table["prompt"], table["response_a"], table["response_b"], strict=True)
    ]


def dated(backbone: Backbone) -> dict[str, str]:
    """The day that the chat template was given, where it asks for one."""
    return {"template_date": backbone.template_date} if writes_date(backbone.tokenizer) else {}


if __name__ == "__main__":
    run(main)
