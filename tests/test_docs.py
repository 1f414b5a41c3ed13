"""README and docs/ mean something: each command is one, each block of code runs, each link leads somewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import Project, write_jsonl
from dvc.cli.parser import get_main_parser
from dvc.utils.hydra import apply_overrides

from bgpm import cli
from bgpm.config import FAMILIES, check
from bgpm.data.readers import read_rows
from bgpm.data.schema import PoolSettings
from bgpm.registry import Component, kinds
from bgpm.rounds import rounds
from bgpm.stage import read_params

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
PLAIN = {".", "cd", "git", "export"}  # of the shell
OF_OUR_OWN = re.compile(r"`(bgpm|make|python -m) ([\w.-]+)(?!/)\b[^`/]*`")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> Iterator[list[str]]:
    """Words of each command of the page's shell blocks, joined over line ends and parted at && and |."""
    for block in blocks(page, "bash", "sh", "console"):
        text = re.sub(r"\$\(bgpm rounds (\d+)\)", lambda found: rounds(int(found[1])), block.replace("\\\n", " "))
        for line in text.splitlines():
            words: list[str] = []
            for word in [*shlex.split(line, comments=True), "&&"]:
                if word in ("&&", "|", ">", ";"):
                    if words:
                        yield words
                    words = []
                    if word == ">":
                        words = [">"]
                elif words == [">"]:
                    words = []
                elif words or not re.fullmatch(r"[A-Z_]+=.*", word):
                    words.append(word)


ALL = [(name(page), words) for page in PAGES for words in commands(page)]


def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bgpm_docs_site", ROOT / "docs" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def is_module(dotted: str) -> bool:
    place = ROOT.joinpath(*dotted.split("."))
    return (
        place.with_suffix(".py").is_file() or (place / "__main__.py").is_file() or dotted in ("pytest", "pip", "venv")
    )


def test_pages_show_commands() -> None:
    assert sum(words[0] == "dvc" for _, words in ALL) > 25
    assert sum(words[0] == "bgpm" for _, words in ALL) > 15


@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page} {' '.join(words)[:60]}" for page, words in ALL])
def test_a_command_of_a_page_is_one(page: str, words: list[str], tmp_path: Path) -> None:
    match words:
        case ["dvc", *rest]:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                try:
                    get_main_parser().parse_args(rest)
                except SystemExit:
                    pytest.fail(said.getvalue())
            check_overrides(rest, tmp_path / "params.yaml")
        case ["bgpm", command, *_]:
            assert command in cli.COMMANDS
            with contextlib.redirect_stderr(io.StringIO()) as said:
                try:
                    cli.parser(command).parse_args(words[1:])
                except SystemExit:
                    pytest.fail(said.getvalue())
        case ["make", *rest]:
            asked = [word for word in rest if "=" not in word]
            assert asked
            for target in asked:
                assert target in targets() or (ROOT / target).with_name("pipeline.yaml").is_file(), target
        case ["python", "-m", module, *_]:
            assert is_module(module), module
        case ["python", script, *_]:
            assert (ROOT / script).is_file(), script
        case ["pip", "install", *rest]:
            project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
            for extra in re.findall(r"\[([\w-]+)\]", " ".join(rest)):
                assert re.search(rf"^{extra} = \[", project, re.M), extra
        case _:
            assert words[0] in PLAIN, f"{page}: {words[0]} is neither checked nor known"


def check_overrides(words: list[str], file: Path) -> None:
    """Every -S names a key of params.yaml, gives it another value, and the whole passes the check of parameters."""
    overrides = [words[n + 1] for n, word in enumerate(words) if word == "-S"]
    shutil.copy(ROOT / "params.yaml", file)
    for override in overrides:
        keys, found = override.split("=", 1)[0].split("."), read_params(file)
        for key in keys:
            assert isinstance(found, dict), override
            assert key in found, f"{override}: params.yaml has no {key}"
            found = found[key]
    if overrides:
        apply_overrides(file, overrides)
        check(read_params(file))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_that_a_sentence_names_is_one(page: Path) -> None:
    for program, word in OF_OUR_OWN.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if program == "bgpm":
            assert word in cli.COMMANDS, word
        elif program == "make":
            assert word in targets() | {"offline", "study"}, word
        else:
            assert word.isupper() or is_module(word), word


def slug(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    for target, anchor in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{target} of {name(page)}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.M)
            assert anchor in map(slug, headings), f"{target}#{anchor} of {name(page)}"


def test_the_readme_can_be_read_in_minutes() -> None:
    assert len(README.splitlines()) <= 160
    assert len(README.split()) <= 2000


def test_the_readme_links_to_every_page_of_docs() -> None:
    assert [name(page) for page in PAGES[3:] if page.stem != "index" and f"({name(page)})" not in README] == []


def test_the_site_has_every_page() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    listed = [page for part in config["nav"] for pages in part.values() for page in pages]
    assert sorted(listed) == sorted([*(page.name for page in PAGES[3:]), *site().PAGES])


@pytest.mark.parametrize("page", ["README.md", "docs/method.md"])
def test_every_kind_is_in_the_tables_and_no_other(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for base, choices in FAMILIES.values():
        if page == "README.md":
            row = next(line for line in text.splitlines() if line.startswith(f"| `{choices[0]}`"))
            assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == set(kinds(base)), choices[0]
        elif choices[0] != "oracle":
            table = re.search(rf"^\| `{choices[0]}` \|.*\n((?:\|.*\n)+)", text, re.M)
            assert table is not None, choices[0]
            named = {kind for line in table[1].splitlines() for kind in re.findall(r"`(\w+)`", line.split("|")[1])}
            assert named == set(kinds(base)), choices[0]


def test_the_tree_of_the_readme_is_that_of_the_repository() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    named = set(re.findall(r"[\w.-]+/(?:\w+/)*|\w+\.yaml", tree))
    packages = {f"bgpm/{path.parent.name}/" for path in (ROOT / "bgpm").glob("*/__init__.py")}
    assert packages - named == set()
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_what_contributing_says_of_folders_and_files_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:bgpm|stages|tests|docs|examples)/[\w./-]*)`", text)) - {
        "bgpm/acquisition/sign_error.py"
    }
    assert len(named) > 8
    assert [path for path in named if not (ROOT / path).exists()] == []


def rows() -> list[tuple[str, str]]:
    return [(name(page), block) for page in PAGES for block in blocks(page, "jsonl")]


@pytest.mark.parametrize(("page", "text"), rows(), ids=[f"{page} {n}" for n, (page, _) in enumerate(rows())])
def test_rows_that_a_page_shows_load(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text, encoding="utf-8")
    found = list(read_rows(PoolSettings(path=str(file), heldout=0.3)))
    assert found, page
    assert all(row.label == row.label for row in found), "a row without a label"


def programs() -> list[tuple[str, str]]:
    return [(name(page), block) for page in PAGES if page.name != "CONTRIBUTING.md" for block in blocks(page, "python")]


@pytest.mark.slow
def test_code_and_commands_of_the_pages_run_on_a_trained_model(finished_project: Project, tmp_path: Path) -> None:
    project = finished_project.clone(tmp_path / "project")
    assert len(programs()) >= 2
    for page, text in programs():
        program = text.replace("round-5", "round-1").replace("data/auto", "data/entropy")
        done = project.run("python", "-c", program, check=False)
        assert done.returncode == 0, f"{page}: {done.stderr[-2000:]}"
    pair = {"prompt": "Which?", "response_a": "clear kind exact", "response_b": "vague rude wrong"}
    write_jsonl(project.folder / "pairs.jsonl", [pair])
    write_jsonl(
        project.folder / "responses.jsonl", [{"prompt": "Which?", "responses": ["clear kind", "rude", "vague"]}]
    )
    (project.folder / "pairs.csv").write_text("question,left,right\nWhich?,clear kind,vague rude\n", encoding="utf-8")
    for _, words in ALL:
        if words[0] == "bgpm" and words[1] in ("score", "rank", "export"):
            here = (word.replace("round-5", "round-1").replace("data/auto", "data/entropy") for word in words)
            project.run("python", "-m", *here)
    assert 0 < json.loads((project.folder / "scored.jsonl").read_text())["probability"] < 1
    assert set(json.loads((project.folder / "dpo.jsonl").read_text().splitlines()[0])) >= {"chosen", "rejected"}


def test_every_setting_has_a_sentence() -> None:
    pages = site()
    silent = [
        f"{place}.{field}".strip(".")
        for place, settings in pages.tables()
        for field in settings.model_fields
        if not (field == "kind" and issubclass(settings, Component)) and not pages.sentences(settings).get(field)
    ]
    assert silent == []


def test_a_setting_without_a_sentence_is_found() -> None:
    from bgpm.acquisition.ucb import Ucb

    class Silent(Ucb):
        """No word of it."""

        loudness: float = 0.0

    assert set(site().sentences(Silent)) == {"kappa"}


def test_the_page_of_settings_names_every_key_of_params_yaml() -> None:
    page = site().settings_page()
    parts = dict(re.findall(r"^## `([\w.]+)`\n(.*?)(?=^## |\Z)", page, re.M | re.S))

    def missing(place: str, settings: dict[str, Any]) -> Iterator[str]:
        for key, value in settings.items():
            inner = f"{place}.{key}".strip(".")
            if isinstance(value, dict) and inner in parts:
                yield from missing(inner, value)
            elif f"| `{key}` |" not in parts.get(place, page if not place else ""):
                yield inner

    params = read_params(ROOT / "params.yaml")
    families = {f"{section}.{kind}": params[section][kind] for section in FAMILIES for kind in params[section]}
    plain = {key: value for key, value in params.items() if key not in FAMILIES}
    lost = [*missing("", plain), *(key for place, settings in families.items() for key in missing(place, settings))]
    assert lost == []


def test_the_acquisition_function_of_contributing_works_as_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_pool: Any
) -> None:
    import numpy as np
    from scipy.stats import norm

    import bgpm.acquisition
    from bgpm.acquisition import Acquisition
    from bgpm.registry import build

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    file = re.search(r"`bgpm/acquisition/(\w+)\.py`", text)
    assert file is not None
    (tmp_path / f"{file[1]}.py").write_text(*blocks(ROOT / "CONTRIBUTING.md", "python"), encoding="utf-8")
    monkeypatch.setattr(bgpm.acquisition, "__path__", [*bgpm.acquisition.__path__, str(tmp_path)])
    try:
        assert file[1] in kinds(Acquisition)
        params = read_params(ROOT / "params.yaml") | {"acquisition": file[1]}
        params["acquisitions"][file[1]] = {}
        assert check(params).acquisition == file[1]
        candidates = make_pool().candidates()
        values = build(Acquisition, file[1], {})(candidates, generator=np.random.default_rng(0))
    finally:
        sys.modules.pop(f"bgpm.acquisition.{file[1]}", None)
    deviations = np.sqrt(candidates.variance)
    chance = [
        min(norm.cdf(0, mean, deviation), norm.sf(0, mean, deviation))
        for mean, deviation in zip(candidates.mean, deviations, strict=True)
    ]
    np.testing.assert_allclose(values, chance, rtol=1e-9)


def test_workflows_hooks_and_citation_name_what_there_is() -> None:
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]
        runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        assert runs
        assert {run.removeprefix("make ") for run in runs} <= targets()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} == {".venv/bin/ruff", ".venv/bin/lint-imports"}
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert version is not None
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version[1]
    assert f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
