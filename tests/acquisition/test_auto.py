"""`auto` is the function that the goal asks for, and re-runs only where that changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import with_changes

from bgpm.acquisition.auto import Auto
from bgpm.config import arm, check
from bgpm.errors import ConfigError
from bgpm.stage import read_params

ROOT = Path(__file__).resolve().parents[2]


def params(**changes: object) -> dict[str, object]:
    return with_changes(read_params(ROOT / "params.yaml"), acquisition="auto", **changes)


def test_auto_is_the_margin_for_a_pool_and_the_default_function_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert read_params(ROOT / "params.yaml")["acquisition"] == "auto"
    assert arm(check(params(goal="pool")), "auto") == {"acquisition": "margin", "settings": {}}
    assert arm(check(params(goal="model")), "auto") == {"acquisition": "entropy", "settings": {}}


def test_an_arm_with_a_name_of_its_own_does_not_depend_on_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = [arm(check(params(goal=goal, baseline="ucb")), "ucb") for goal in ("model", "pool")]
    assert found[0] == found[1] == {"acquisition": "ucb", "settings": {"kappa": 1.0}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"acquisitions__auto": {"model": "entropy", "pool": "margim"}},
            "acquisitions.auto.pool: unknown kind 'margim'",
        ),
        ({"acquisitions__auto": {"model": "auto", "pool": "margin"}}, "acquisitions.auto.model: unknown kind 'auto'"),
        ({"goal": "pool", "baseline": "margin"}, "auto stands for margin under goal pool, which is the other arm too"),
        (
            {"acquisitions__auto": {"model": "bald", "pool": "bald"}, "posterior": "point"},
            "auto needs a variance of scores, and posterior point",
        ),
    ],
)
def test_what_auto_cannot_stand_for_is_refused(
    change: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError) as refused:
        check(params(**change))
    assert message in str(refused.value)


def test_auto_has_no_values_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"stands for entropy \(goal: model\) or margin \(goal: pool\)"):
        Auto().values(None, generator=np.random.default_rng(0))  # type: ignore[arg-type]
