"""Components by kind, and settings refused with the key that is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError

from bgpm.acquisition import Acquisition
from bgpm.config import FAMILIES
from bgpm.errors import ConfigError
from bgpm.oracles import Oracle
from bgpm.registry import Component, Settings, build, kinds, member, parse


class Leaf(Settings):
    size: int = Field(ge=1)
    share: float = 0.5


class Branch(Settings):
    name: str
    leaf: Leaf
    leaves: list[Leaf]
    by_name: dict[str, Leaf]


@pytest.mark.parametrize("base", [base for base, _ in FAMILIES.values()], ids=FAMILIES)
def test_every_file_of_a_family_is_a_member_named_like_its_kind(base: type[Component]) -> None:
    package = Path(sys.modules[base.__module__].__file__ or "").parent
    files = sorted(p.stem for p in package.glob("*.py") if not p.stem.startswith("_"))
    assert kinds(base) == files
    assert files
    for kind in files:
        component = member(base, kind)
        assert component.model_fields["kind"].default == kind
        assert component.__doc__


def test_listing_kinds_imports_no_member_and_no_torch() -> None:
    code = (
        "import sys; from bgpm.oracles import Oracle\n"
        "from bgpm.acquisition import Acquisition; from bgpm.registry import kinds\n"
        "assert 'human' in kinds(Oracle) and 'bald' in kinds(Acquisition)\n"
        "assert not {'torch', 'scipy', 'pandas', 'bgpm.oracles.human', 'bgpm.acquisition.bald'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_an_unknown_kind_is_answered_with_the_list_of_kinds() -> None:
    with pytest.raises(ConfigError) as caught:
        member(Oracle, "humann", "oracle")
    known = "human, judge, letters, recorded"
    assert str(caught.value) == f"params.yaml: oracle: unknown kind 'humann'; choose one of: {known}"
    for private in ("_moments", "__init__", ""):
        with pytest.raises(ConfigError, match="unknown kind"):
            member(Acquisition, private)


def test_a_member_is_built_from_its_settings_and_no_settings_mean_the_defaults() -> None:
    built = build(Oracle, "recorded", {"noise": 0.25}, "oracles")
    assert built.model_dump(exclude_defaults=True) == {"noise": 0.25}
    assert built.kind == "recorded"
    assert build(Oracle, "recorded", None) == build(Oracle, "recorded", {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"nois": 0.1},
            "params.yaml: oracles.recorded.nois: unknown key; "
            "known here: noise, annotators, votes, tie_rate, abstention, price",
        ),
        ({"noise": "0.1"}, "params.yaml: oracles.recorded.noise: Input should be a valid number, got '0.1'"),
        ({"noise": 0.5}, "params.yaml: oracles.recorded.noise: Input should be less than 0.5, got 0.5"),
        ({"noise": True}, "params.yaml: oracles.recorded.noise: Input should be a valid number, got True"),
        ({"kind": "human"}, "params.yaml: oracles.recorded.kind: Input should be 'recorded', got 'human'"),
        ([1], "params.yaml: oracles.recorded: expected a mapping of settings, got [1]"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(settings: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Oracle, "recorded", settings, "oracles")  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_every_wrong_key_is_named_at_any_depth_with_what_is_known_there() -> None:
    wrong = {
        "leaf": {"size": 0, "shar": 1.0},
        "leaves": [{"size": 1}, {"size": 1, "sise": 2}],
        "by_name": {"oak": {"size": 1, "age": 3}},
        "lef": {},
    }
    with pytest.raises(ConfigError) as caught:
        parse(Branch, wrong, "tree")
    assert sorted(str(caught.value).splitlines()) == [
        "params.yaml: tree.by_name.oak.age: unknown key; known here: size, share",
        "params.yaml: tree.leaf.shar: unknown key; known here: size, share",
        "params.yaml: tree.leaf.size: Input should be greater than or equal to 1, got 0",
        "params.yaml: tree.leaves.1.sise: unknown key; known here: size, share",
        "params.yaml: tree.lef: unknown key; known here: name, leaf, leaves, by_name",
        "params.yaml: tree.name: Field required",
    ]


def test_the_file_in_a_message_is_the_one_that_was_read() -> None:
    with pytest.raises(ConfigError, match=r"^leaf\.yaml: size: Field required$"):
        parse(Leaf, {}, "", "leaf.yaml")
    with pytest.raises(ConfigError, match=r"^leaf\.yaml: expected a mapping of settings, got None$"):
        parse(Leaf, None, "", "leaf.yaml")  # type: ignore[arg-type]


def test_settings_cannot_change_after_they_were_checked() -> None:
    leaf = parse(Leaf, {"size": 3}, "leaf")
    with pytest.raises(ValidationError, match="frozen"):
        leaf.size = 0


def test_whole_numbers_pass_for_floats_and_floats_not_for_whole_numbers() -> None:
    assert parse(Leaf, {"size": 1, "share": 1}, "leaf").share == 1.0
    with pytest.raises(ConfigError, match=r"leaf\.size: Input should be a valid integer"):
        parse(Leaf, {"size": 1.0}, "leaf")


def test_a_module_without_its_component_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "shapes_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("from bgpm.registry import Component\nclass Shape(Component):\n    pass\n")
    (folder / "circle.py").write_text(
        "from typing import Literal\nfrom shapes_of_a_test import Shape\n"
        "class Round(Shape):\n    kind: Literal['circle'] = 'circle'\n"
        "class Helper(Shape):\n    kind: Literal['helper'] = 'helper'\n"
    )
    (folder / "empty.py").write_text("from shapes_of_a_test import Shape\nfrom shapes_of_a_test.circle import Round\n")
    monkeypatch.syspath_prepend(tmp_path)
    from shapes_of_a_test import Shape  # pyright: ignore[reportMissingImports]

    assert kinds(Shape) == ["circle", "empty"]
    assert member(Shape, "circle").__name__ == "Round"
    with pytest.raises(ConfigError, match="empty defines no subclass of Shape with kind 'empty'"):
        member(Shape, "empty")


def test_a_base_without_default_kind_cannot_be_built_by_accident() -> None:
    class Odd(Component):
        kind: Literal["odd"]

    with pytest.raises(ConfigError, match=r"^params\.yaml: kind: Field required$"):
        parse(Odd, {}, "")
