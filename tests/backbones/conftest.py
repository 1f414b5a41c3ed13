"""Tiny backbones by name, each made and loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from backbone_models import DECODERS, write_tiny_decoder
from conftest import write_tiny_bert

from bgpm.backbones import BackboneSettings
from bgpm.backbones.embedding import Backbone, load_backbone


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Backbone]]:
    """Tiny backbones by name, each made and loaded once."""
    made: dict[str, Backbone] = {}

    def get(name: str) -> Backbone:
        if name not in made:
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            (write_tiny_bert if name == "bert" else lambda f: write_tiny_decoder(f, name))(folder)
            made[name] = load_backbone(BackboneSettings(path=str(folder)))
        return made[name]

    return get


@pytest.fixture(params=["bert", *DECODERS])
def backbone(request: pytest.FixtureRequest, loaded: Callable[[str], Backbone]) -> Backbone:
    return loaded(request.param)


@pytest.fixture
def bert(loaded: Callable[[str], Backbone]) -> Backbone:
    return loaded("bert")
