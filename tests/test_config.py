"""params.yaml as it ships: complete, and the same defaults as the classes have."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgpm.config import FAMILIES, check
from bgpm.errors import ConfigError
from bgpm.registry import Component, kinds, member
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


@pytest.mark.parametrize(("name", "value"), [("response_variance", "auto"), ("precision_by_block", True)])
def test_what_belongs_to_fixed_features_is_refused_where_the_backbone_is_trained(name: str, value: object) -> None:
    own = {**PARAMS["posteriors"]["laplace"], name: value}
    changed = {**PARAMS, "posteriors": {**PARAMS["posteriors"], "laplace": own}}
    check(changed)
    with pytest.raises(ConfigError, match=rf"posteriors\.laplace\.{name}: .* set training\.mode: frozen"):
        check({**changed, "training": {**PARAMS["training"], "mode": "lora"}})
