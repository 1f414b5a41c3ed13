"""params.yaml as it ships: complete, and the same defaults as the classes have."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from conftest import with_changes

from bgpm.config import FAMILIES, Params, check
from bgpm.errors import ConfigError
from bgpm.features import FeatureSettings
from bgpm.features.blocks import Block
from bgpm.registry import Component, Settings, kinds, member
from bgpm.stage import read_params
from bgpm.training import TrainingSettings

PARAMS = read_params(Path(__file__).resolve().parents[1] / "params.yaml")


def test_the_shipped_parameters_are_valid() -> None:
    check(PARAMS)


@pytest.mark.parametrize(("section", "base"), [(name, base) for name, (base, _) in FAMILIES.items()])
def test_every_kind_stands_in_params_yaml_with_its_defaults(section: str, base: type[Component]) -> None:
    assert set(PARAMS[section]) == set(kinds(base))
    for kind, settings in PARAMS[section].items():
        assert settings == member(base, kind)().model_dump(exclude={"kind"}), f"{section}.{kind}"


def test_every_setting_of_training_stands_in_params_yaml_with_its_default() -> None:
    assert PARAMS["training"] == TrainingSettings().model_dump()


SECTIONS = {
    name: field.annotation
    for name, field in Params.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Settings) and name != "features"
}

# What belongs to the files that the project ships, not to the setting: a hash, and the seed of a good split.
OF_THE_FILES = {("backbone", "sha256"), ("pool", "seed")}


def test_the_sections_of_params_yaml_are_known_here() -> None:
    assert {"start", "pool", "benchmark", "backbone", "training", "report", "launcher"} <= set(SECTIONS)


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_a_setting_has_one_default_whether_params_yaml_names_it_or_not(section: str) -> None:
    fields = SECTIONS[section].model_fields
    assert set(PARAMS[section]) == set(fields)
    needed = {name: value for name, value in PARAMS[section].items() if fields[name].is_required()}
    ours = SECTIONS[section](**needed).model_dump(mode="json")
    differ = {(section, name) for name, value in PARAMS[section].items() if ours[name] != value}
    assert differ == {place for place in OF_THE_FILES if place[0] == section}


def test_blocks_of_features_have_one_default_each() -> None:
    section = dict(PARAMS["features"])
    assert section.pop("blocks") == FeatureSettings().blocks
    assert section == {kind: member(Block, kind)().model_dump(exclude={"kind"}) for kind in kinds(Block)}


@pytest.mark.parametrize(("name", "value"), [("response_variance", "auto"), ("precision_by_block", True)])
def test_what_belongs_to_fixed_features_is_refused_where_the_backbone_is_trained(name: str, value: object) -> None:
    own = {**PARAMS["posteriors"]["laplace"], name: value}
    changed = {**PARAMS, "posteriors": {**PARAMS["posteriors"], "laplace": own}}
    check(changed)
    with pytest.raises(ConfigError, match=rf"posteriors\.laplace\.{name}: .* set training\.mode: frozen"):
        check({**changed, "training": {**PARAMS["training"], "mode": "lora"}})


@pytest.mark.parametrize(
    ("oracle", "margin", "human", "said"),
    [
        ("judge", True, {}, r"margin: true needs labels with a margin, and oracle judge gives none; set it to false$"),
        ("human", True, {}, r"posteriors\.laplace\.margin: .* or oracles\.human\.strength to margin"),
        ("human", False, {"strength": "margin", "scale": 4}, r"oracles\.human\.strength: margin counts where post"),
        ("human", True, {"strength": "margin", "scale": 2}, r"oracles\.human\.scale: 2 asks nobody how much better"),
        ("human", True, {"strength": "margin", "scale": 7}, None),
        ("recorded", True, {}, None),
    ],
)
def test_a_margin_that_no_label_will_have_is_refused(
    oracle: str, margin: bool, human: dict[str, Any], said: str | None
) -> None:
    changes = {"posteriors__laplace__margin": margin, "oracles__judge__model": "some"}
    people = {**PARAMS["oracles"]["human"], **human}
    one = {"oracle": oracle, "seeds": [0], "baseline": "auto", "oracles__human": people}
    with pytest.raises(ConfigError, match=said) if said else nullcontext():
        check(with_changes(deepcopy(PARAMS), **one, **changes))


def test_an_older_name_of_a_model_is_read_among_settings_and_refused_as_the_model(
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = {kind: settings for kind, settings in PARAMS["models"].items() if kind != "pair_mlp"}
    older = {**PARAMS, "models": {**models, "pairpm": {"hidden": 8}}}
    check(older)
    assert caplog.messages == ["params.yaml: models.pairpm: an older name, read as models.pair_mlp"]
    with pytest.raises(ConfigError, match=r"model: pairpm is called pair_mlp now.* rename it there and under models"):
        check({**older, "model": "pairpm"})
    with pytest.raises(ConfigError, match=r"models\.pair_mlp: missing"):  # DVC reads the setting under this very name
        check({**older, "model": "pair_mlp"})
    with pytest.raises(ConfigError, match=r"models\.pair_mlp\.hidden"):
        check({**older, "models": {**models, "pairpm": {"hidden": 0}}})
