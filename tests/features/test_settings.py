"""Section `features`: blocks with settings of their own, and the older form."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from bgpm.errors import ConfigError
from bgpm.features import FeatureSettings
from bgpm.features.blocks import Block, built
from bgpm.features.reduction import Reduction
from bgpm.registry import kinds, parse

TEXTS = [f"Answer {n}. " + "word " * (n % 7) + "\n- item" * (n % 3) for n in range(40)]
STATES = np.random.default_rng(0).normal(size=(40, 2, 5)).astype(np.float32)


def read(section: Any) -> FeatureSettings:
    return parse(FeatureSettings, section, "features")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"layers": "all", "pca": 4, "whiten": False, "text_statistics": True},
            {"blocks": ["states", "statistics"], "states": {"layers": "all", "pca": 4, "whiten": False}},
        ),
        ({"layers": "last", "pca": None}, {"blocks": ["states"], "states": {"layers": "last", "pca": None}}),
        ({"whiten": True}, {"blocks": ["states"], "states": {"whiten": True, "pca": 256}}),
    ],
)
def test_the_older_form_gives_the_same_bytes_as_its_blocks(old: dict, new: dict) -> None:
    a, b = (Reduction.fit(read(form), STATES, TEXTS)(STATES, TEXTS) for form in (old, new))
    assert a.tobytes() == b.tobytes()


def test_the_older_form_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bgpm"):
        read({"pca": 4, "text_statistics": True})
        assert len(caplog.records) == 1
        assert "read as blocks ['states', 'statistics']" in caplog.text
        read({"blocks": ["states"]})
    assert len(caplog.records) == 1


def test_what_is_written_down_is_read_back() -> None:
    settings = read({"blocks": ["states", "rich"], "states": {"pca": 3}, "rich": None})
    assert read(settings.model_dump()) == settings
    assert [block.kind for block in built(settings).values()] == ["states", "rich"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"blocks": ["states", "stats"]}, r"unknown kind 'stats'; choose blocks among: .*rich.*states.*statistics"),
        ({"blocks": ["states"], "stats": {}}, "unknown kind 'stats'"),
        ({"blocks": ["rich"], "states": {"pca": 0}}, r"features\.states\.pca: .*greater than or equal to 1"),
        ({"blocks": ["rich"], "states": {"pcas": 3}}, r"features\.states\.pcas: unknown key; known here: .*pca"),
        ({"blocks": ["rich", "states"]}, "expected states first"),
        ({"blocks": ["rich", "rich"]}, "expected each kind once"),
        ({"blocks": []}, r"features\.blocks"),
        ({"blocks": ["states"], "depth": 3}, r"features\.depth: unknown key"),
        ({"blocks": ["states"], "pca": 3}, r"pca are of the older form and blocks of the newer one; write states\.pca"),
        ({"pca": 3, "text_statistics": "yes"}, "text_statistics: expected true or false"),
    ],
)
def test_a_wrong_section_is_refused_with_the_key(section: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(read(section))


def test_params_yaml_with_a_wrong_block_is_refused_before_any_work() -> None:
    from pathlib import Path

    from bgpm.config import check
    from bgpm.stage import read_params

    params = read_params(Path(__file__).parents[2] / "params.yaml")
    check(params)
    assert set(params["features"]) == {"blocks", *kinds(Block)}  # params.yaml shows every kind
    params["features"]["blocks"] = ["states", "colour"]
    with pytest.raises(ConfigError, match="features: unknown kind 'colour'"):
        check(params)


def test_blocks_say_which_columns_are_theirs() -> None:
    reduction = Reduction.fit(
        read({"blocks": ["states", "statistics", "rich"], "states": {"pca": 3}}), STATES, TEXTS, prompts=TEXTS
    )
    assert [(b.name, b.start, b.stop) for b in reduction.blocks] == [
        ("states", 0, 3), ("statistics", 3, 10), ("rich", 10, 31),
    ]  # fmt: skip
    whole = reduction(STATES, TEXTS, TEXTS)
    for block in reduction.blocks:
        alone = read({"blocks": [block.name], "states": {"pca": 3}})
        own = Reduction.fit(alone, STATES, TEXTS, prompts=TEXTS)(STATES, TEXTS, TEXTS)
        np.testing.assert_array_equal(whole[:, block.start : block.stop], own)


def test_blocks_that_read_prompts_are_not_fitted_without_them() -> None:
    with pytest.raises(ConfigError, match="rich reads the prompt of each response"):
        Reduction.fit(read({"blocks": ["states", "rich"]}), STATES, TEXTS)
