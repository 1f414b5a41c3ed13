"""What a stage reads of params.yaml: exactly its own sections, typed, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from bgpm.errors import ConfigError
from bgpm.models import Model
from bgpm.models.gpm import Gpm
from bgpm.oracles.human import Human
from bgpm.sections import Sections
from bgpm.selection import StartSettings
from bgpm.sizes import Size

FILE = """
model: gpm
models: {gpm: {dim: 4}, bt: {nonsense: 1}}
start: {labels: 8}
oracles: {human: {annotators_per_pair: 3}, judge: nonsense}
batch_size: 16
nonsense: 1
"""


class Some(Sections):
    model: Model
    start: StartSettings
    batch_size: Size
    human: Human = Field(alias="oracles.human")
    share: int = Field(alias="oracles.human.annotators_per_pair")


def read(folder: Path, text: str) -> Some:
    file = folder / "params.yaml"
    file.write_text(text, encoding="utf-8")
    return Some.read(file)


def test_own_sections_are_typed_and_what_others_read_may_be_wrong(tmp_path: Path) -> None:
    found = read(tmp_path, FILE)
    assert found.model == Gpm(dim=4)
    assert (found.start, found.batch_size) == (StartSettings(labels=8), 16)
    assert (found.human, found.share) == (Human(annotators_per_pair=3), 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model: gpm", "model: lstm", r"params\.yaml: model: unknown kind 'lstm'; choose one of: bt, gpm, pair_mlp"),
        ("model: gpm", "model: pair_mlp", r"params\.yaml: models\.pair_mlp: missing; `git checkout"),
        ("dim: 4", "dims: 4", r"params\.yaml: models\.gpm\.dims: unknown key; known here: dim, "),
        ("labels: 8", "labels: many", r"params\.yaml: start\.labels: .*got 'many'"),
        ("start: {labels: 8}", "start: 8", r"params\.yaml: start: expected a mapping of settings, got 8"),
        ("annotators_per_pair: 3", "annotators: 3", r"params\.yaml: oracles\.human\.annotators: unknown key"),
        ("batch_size: 16", "batch_size: 0", r"params\.yaml: batch_size: .*expected a number of pairs.*got 0"),
        ("batch_size: 16", "", r"params\.yaml: batch_size: missing"),
    ],
)
def test_what_is_wrong_in_an_own_section_is_named_by_its_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, FILE.replace(old, new))
