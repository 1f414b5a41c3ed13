"""A setting of a YAML file changes, and nothing else of the file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bgpm.errors import ConfigError
from bgpm.settings_text import with_settings

TEXT = (Path(__file__).resolve().parents[1] / "params.yaml").read_text(encoding="utf-8")


def leaves(tree: object, above: str = "") -> dict[str, object]:
    if not isinstance(tree, dict) or not tree:
        return {above: tree}
    return {k: v for key, value in tree.items() for k, v in leaves(value, f"{above}.{key}".strip(".")).items()}


def test_every_setting_of_params_yaml_can_change_and_every_comment_stays() -> None:
    wanted = {key: f"new {n}" for n, key in enumerate(leaves(yaml.safe_load(TEXT)))}
    changed = with_settings(TEXT, wanted)
    assert leaves(yaml.safe_load(changed)) == wanted
    assert re.findall("#.*", changed) == re.findall("#.*", TEXT)


@pytest.mark.parametrize("text", ["rounds:\n- k: 0\n  next: 1\n", "rounds:\n  - k: 0\n    next: 1\n"])
def test_a_list_whose_lines_begin_below_its_key_as_dvc_writes_them_can_change(text: str) -> None:
    for nested in (False, True):
        whole = "above:\n" + "".join(f"  {line}\n" for line in text.splitlines()) if nested else text
        changed = with_settings(f"{whole}seed: 3\n", {"above.rounds" if nested else "rounds": "[{k: 0}, {k: 1}]"})
        found = yaml.safe_load(changed)
        assert (found["above"] if nested else found)["rounds"] == [{"k": 0}, {"k": 1}]
        assert found["seed"] == 3


@pytest.mark.parametrize(
    "key", ["goal", "rounds", "pool.columns", "posteriors.laplace.structure", "launcher.score_from"]
)
def test_one_setting_changes_alone(key: str) -> None:
    changed = with_settings(TEXT, {key: "[new, {a: 1}]"})
    before, after = leaves(yaml.safe_load(TEXT)), leaves(yaml.safe_load(changed))
    assert after == before | {key: ["new", {"a": 1}]}
    gone = set(TEXT.splitlines()) - set(changed.splitlines())
    assert len(gone) == (len(before["rounds"]) if key == "rounds" else 1)


def test_a_comment_behind_the_value_keeps_its_column() -> None:
    text = "a: 1     # one\nb:\n  c: [1, 2]   # two\n"
    assert with_settings(text, {"a": "1234", "b.c": "3"}) == "a: 1234  # one\nb:\n  c: 3        # two\n"
    assert with_settings(text, {"a": "123456789"}).startswith("a: 123456789 # one\n")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("pool.colums", "{}", "params.yaml: pool.colums: there is no key 'colums' in pool, which has path, hub"),
        ("pool.columns.prompt", "q", "there is no key 'prompt' in pool.columns, which has no further keys: set "),
        ("goals", "1", "params.yaml: goals: there is no key 'goals' in it, which has goal, acquisition"),
        ("pool.columns", "{prompt: [", "params.yaml: pool.columns: expected a value in YAML, on one line"),
        ("pool.path", "a\nb: c", "expected a value in YAML, on one line"),
        ("pool.path", "a # b", "expected a value in YAML, on one line"),
        ("pool.path", "a, b", "expected a value in YAML, on one line"),
        ("pool.path", "", "expected a value in YAML, on one line"),
    ],
)
def test_an_unknown_key_or_a_broken_value_is_refused(key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_settings(TEXT, {key: value})
    assert said in str(error.value)
