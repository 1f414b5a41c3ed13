"""``bgpm init FOLDER``: a campaign of your own, in a folder outside the repository of bgpm.

A campaign is a repository of Git and DVC that holds settings (params.yaml), the pipeline (dvc.yaml), a file of pairs,
and the labels that people give. The code stays in the installed package.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import yaml

from bgpm.config import Params, check
from bgpm.data.prepare import prepare
from bgpm.errors import BgpmError, ConfigError, DataError, StateError
from bgpm.evaluation.plan import acquired_by, check_enough
from bgpm.installed import LAUNCHER, campaign_pipeline, default_params, is_campaign, pipeline_file, stages_folder
from bgpm.oracles import Oracle
from bgpm.registry import kinds
from bgpm.rounds import rounds
from bgpm.settings_text import with_settings
from bgpm.sizes import pairs_of
from bgpm.stage import read_params, write_text
from bgpm.values import parse_yaml

SOURCE = Path("data/source")
BENCHMARK = Path("data/benchmark.jsonl")
COPIED = (
    ".dvcignore",
    "data/annotations/README.md",
    "data/annotations/heldout/README.md",
    "data/annotations/judge.txt",
)
WRITTEN = ("params.yaml", "dvc.yaml", "dvc.lock", "data", "reports", "README.md", ".gitignore", ".dvcignore", ".dvc")
IGNORED = """# Made by the pipeline; DVC keeps it
/data/*
!/data/source/
!/data/benchmark.jsonl
!/data/annotations/
/data/annotations/**/*.lock
/reports/index.html
/reports/costs.html
/.timings/
/.checkpoints/

.venv/
__pycache__/
"""
README = """# {name}
A campaign of bgpm: `dvc repro` runs it, `bgpm annotate --run` asks people for labels, params.yaml has its settings.
"""
ABOUT_SOURCE = "Files of pairs that `pool.path` and `benchmark.path` in params.yaml name. Git keeps them.\n"
FEW = 4  # labels for which no round shall run: a round takes half a minute

Splits = Mapping[str, Mapping[str, Any]]  # what the stage prepare counts of each split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the campaign goes: new, or empty")
    parser.add_argument("--pool", type=Path, metavar="FILE", help="the pairs, in any layout; read, checked and copied")
    parser.add_argument(
        "--goal", choices=("model", "pool"), default="model", help="a good model, or a labelled pool; default: model"
    )
    parser.add_argument(
        "--oracle", choices=kinds(Oracle), default="human",
        help="who labels: people, a language model, or the file itself; default: human",
    )  # fmt: skip
    parser.add_argument(
        "-S", "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
        help="a further setting, as in params.yaml: -S 'pool.columns={prompt: question}'",
    )  # fmt: skip
    parser.add_argument("--update", action="store_true", help="write the pipeline of this bgpm into a campaign")


def run(given: argparse.Namespace) -> None:
    """Make or update a campaign, and say what was done and what to do next.

    Raises:
        ConfigError: For settings that are wrong or do not go together.
        DataError: For pairs that cannot be used; names file, line and what to do.
        StateError: If something is in the way, or git cannot keep the folder.
    """
    if given.update:
        said = update(given.folder)
    else:
        settings = {"goal": given.goal, "oracle": given.oracle} | dict(map(_key_value, given.settings))
        said = make(given.folder, given.pool, settings)
    for line in said:
        print(line)


def make(folder: Path, pool: Path | None, settings: Mapping[str, str]) -> list[str]:
    """Write a campaign into a folder; nothing is written where anything is wrong.

    Args:
        folder: New, or without any file that is written here.
        pool: A file or folder of pairs, which is copied; None where it comes later.
        settings: By dotted key the value in YAML, in place of a campaign's own default.

    Returns:
        What was done and what to do next, line by line.

    Raises:
        BgpmError: As `run`.
    """
    top = _check_place(folder)
    if pool is not None and not pool.exists():
        raise DataError(f"--pool {pool}: no such file or folder")
    with tempfile.TemporaryDirectory() as made:
        try:
            params, splits = _write(Path(made), pool, settings)
        except (ConfigError, DataError) as error:
            raise (_with_hint(error) if str(error).startswith("params.yaml: ") else error) from None
        write_text(Path(made) / "README.md", README.format(name=folder.resolve().name))
        shutil.copytree(made, folder, dirs_exist_ok=True)
    _init(folder, top=top)
    if top is None:
        _commit(folder)
    return _said(folder, params, splits)


def update(folder: Path) -> list[str]:
    """Write the installed package's pipeline into a campaign; settings, data and labels stay as they are.

    Returns:
        What was done, and which settings params.yaml lacks, line by line.

    Raises:
        StateError: If the folder holds no campaign.
    """
    if not is_campaign(folder / "dvc.yaml"):
        raise StateError(f"{folder}: holds no campaign: its dvc.yaml is not there, or was not made by `bgpm init`")
    write_text(folder / "dvc.yaml", campaign_pipeline())
    write_text(folder / LAUNCHER, _launcher())
    ours, theirs = parse_yaml(default_params()), read_params(folder / "params.yaml")
    lacking = [f"{folder / 'params.yaml'} lacks {key}: add it, the default is {json.dumps(value)}"
               for key, value in _lacking(ours, theirs)]  # fmt: skip
    return [f"{folder}: dvc.yaml and {LAUNCHER} are those of the installed bgpm; go on with `dvc repro`", *lacking]


def _with_hint(error: BgpmError) -> BgpmError:
    """The error, which tells of keys of params.yaml, with how they are given here: that file is not there yet."""
    return type(error)(f"{error}. Here a key of params.yaml is given as -S KEY=VALUE")


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"-S {text}: expected KEY=VALUE, such as -S pool.heldout=0.2")
    return key, value


def _check_place(folder: Path) -> Path | None:
    """The top of the repository of git that the folder lies in, if it lies in one.

    Raises:
        StateError: If it cannot become a campaign.
    """
    there = [folder / name for name in (*WRITTEN, LAUNCHER.parts[0]) if (folder / name).exists()]
    if is_campaign(folder / "dvc.yaml"):
        raise StateError(
            f"{folder}: is a campaign already; `bgpm init --update {folder}` brings its pipeline up to date"
        )
    if folder.exists() and not folder.is_dir():
        there = [folder]
    if there:
        raise StateError(f"{there[0]}: is there already and would be overwritten; name a folder that is new or empty")
    if shutil.which("git") is None:
        raise StateError("git: not found; a campaign is kept by git and DVC: install it")
    above = next(path for path in folder.absolute().parents if path.is_dir()) if not folder.exists() else folder
    top = _git(above, "rev-parse", "--show-toplevel")
    if top.returncode:
        return None
    if _git(above, "check-ignore", "--quiet", str(folder.absolute() / ".dvc")).returncode == 0:
        raise StateError(
            f"{folder}: git ignores it in the repository at {top.stdout.strip()}, and nothing would be kept: name "
            "a folder elsewhere, or make it a repository of its own first: `git init FOLDER`"
        )
    return Path(top.stdout.strip())


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)


def _write(made: Path, pool: Path | None, settings: Mapping[str, str]) -> tuple[Params, Splits | None]:
    """Write every file into an empty folder: what the settings came to, and the pairs by split where there are any."""
    source = SOURCE / (pool.name if pool else "" if "pool.hub" in settings else "pairs.jsonl")
    where = {"pool.path": _quoted(source), "benchmark.path": BENCHMARK.as_posix()}
    text = with_settings(default_params(), where | {"benchmark.kind": "none"} | _defaults(settings) | dict(settings))
    for name in COPIED:
        write_text(made / name, pipeline_file(name).read_text(encoding="utf-8"))
    params, splits = _checked(made, text), None
    if pool is not None or params.pool.hub is not None:
        splits = _read(params, pool)
        params = _checked(made, with_settings(text, _sizes(settings, params, splits["pool"]["pairs"])))
        _check_audits(params, splits["pool"]["pairs"])
    write_text(made / "dvc.yaml", campaign_pipeline())
    write_text(made / LAUNCHER, _launcher())
    write_text(made / ".gitignore", IGNORED)
    write_text(made / SOURCE / "README.md", ABOUT_SOURCE)
    write_text(made / BENCHMARK, "\n")  # DVC warns of empty files
    if pool is not None and pool.is_dir():
        shutil.copytree(pool, made / source)
    elif pool is not None:
        shutil.copyfile(pool, made / source)
    return params, splits


def _defaults(settings: Mapping[str, str]) -> dict[str, str]:
    """Where a campaign differs from the repository's params.yaml: labels that cost something are asked for once."""
    found = {}
    if settings["goal"] == "pool":
        found = {"pool.heldout": "0.0", "start.labels": "0.05", "batch_size": "0.05"}
    if settings["oracle"] != "recorded":  # one arm: its own baseline
        found |= {"seeds": "[0]", "baseline": settings.get("acquisition", "auto")}
    return found


def _sizes(settings: Mapping[str, str], params: Params, pool: int) -> dict[str, str]:
    """Seed set, batch and rounds, those of ``params`` at most, that acquire about half of a small pool, as far as they
    are not set; a goal pool has shares."""
    if settings["goal"] == "pool":
        return {}
    most = len(params.rounds)
    start = pairs_of(params.start.labels, pool)
    if "start.labels" not in settings:
        start = max(1, min(pool - 1, max(2, min(start, pool // 6))))  # one may be skipped
    left, batch = pool // 2 - start, pairs_of(params.batch_size, pool)
    if "batch_size" not in settings:
        batch = max(1, min(max(left // most, FEW), batch, pool - start))
    number = most if "rounds" in settings else max(1, min(left // batch, most))
    found = {"start.labels": str(start), "batch_size": str(batch), "rounds": rounds(number)}
    same = "rounds" if number == most else ""
    return {key: value for key, value in found.items() if key not in settings and key != same}


def _checked(made: Path, text: str) -> Params:
    """Write params.yaml, and check it as the stage `check` will."""
    write_text(made / "params.yaml", text)
    with chdir(made):
        return check(read_params())


def _read(params: Params, pool: Path | None) -> Splits:
    """Read and split the pairs as the stage `prepare` will: its counts by split."""
    asked = params.pool if pool is None else params.pool.model_copy(update={"path": str(pool)})
    return prepare(asked, None, recorded=params.oracle == "recorded").summary["splits"]


def _check_audits(params: Params, pool: int) -> None:
    """Refuse audits that can certify nothing, as the stage `plan` will."""
    if params.goal == "pool" and params.oracle != "recorded":
        acquired = acquired_by(params.start.labels, params.batch_size, len(params.rounds), pool)
        check_enough(params.audit, acquired, pool, paid=True)


def _quoted(path: Path) -> str:
    """A path as YAML, in quotes only where it needs them."""
    return yaml.safe_dump(path.as_posix(), width=math.inf).removesuffix("\n...\n").strip()


def _launcher() -> str:
    return (stages_folder() / "python").read_text(encoding="utf-8")


def _init(folder: Path, *, top: Path | None) -> None:
    """Make the folder a repository of git, where it lies in none, and of DVC."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # it says what `dvc init` says
    if top is None and (done := _git(folder, "init", "--quiet")).returncode:
        raise StateError(f"{folder}: `git init` failed: {' '.join(done.stderr.split())}")
    try:
        Repo.init(str(folder), subdir=top not in (None, folder.resolve())).close()
    except DvcException as error:
        raise StateError(f"{folder}: `dvc init` failed: {' '.join(str(error).split())}") from error
    write_text(folder / ".dvc/config", "[core]\n    analytics = false\n")


def _commit(folder: Path) -> None:
    """The first commit, which `dvc exp run` starts from.

    Raises:
        StateError: If git refuses it.
    """
    known = _git(folder, "config", "user.email").returncode == 0
    who = () if known else ("-c", "user.name=bgpm", "-c", "user.email=bgpm@localhost")
    unsigned = ("-c", "commit.gpgsign=false")  # nobody is asked for a password here
    for words in (("add", "--all"), ("commit", "--quiet", "--message", "A campaign")):
        if (done := _git(folder, *who, *unsigned, *words)).returncode:
            why = " ".join(done.stderr.split())
            raise StateError(f"{folder}: is made, but `git {words[0]}` failed: {why}; commit it, then go on")


def _lacking(ours: Mapping[str, Any], theirs: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted key that the package's params.yaml has and a campaign's has not."""
    for key, value in ours.items():
        if key not in theirs:
            yield above + key, value
        elif isinstance(value, Mapping) and isinstance(theirs[key], Mapping):
            yield from _lacking(value, theirs[key], f"{above}{key}.")


def _said(folder: Path, params: Params, splits: Splits | None) -> list[str]:
    """What was made, and the commands that come next."""
    dvc, bgpm = (name if shutil.which(name) else f"{sys.executable} -m {name}" for name in ("dvc", "bgpm"))
    repro = f"cd {shlex.quote(str(folder))} && {dvc} repro"
    lines = [f"{folder}: a campaign"]
    heldout: Mapping[str, Any] = {}
    if splits is None:
        lines.append(
            f"put your pairs into {folder / params.pool.path} (another file, other columns: pool in params.yaml)"
        )
    else:
        heldout, size = splits.get("heldout", {}), splits["pool"]["pairs"]
        batch, count = pairs_of(params.batch_size, size), len(params.rounds)
        start = pairs_of(params.start.labels, size)
        measure = f", {heldout['pairs']} measure the model" if heldout else ""
        lines.append(
            f"{size} pairs may be acquired{measure}; {min(size, start + batch * count)} labels are planned: {start}, "
            f"then {count} rounds of {batch} (start.labels, batch_size and rounds in params.yaml)"
        )
    if params.oracle == "human":
        commands = {
            repro: "chooses the first pairs, and stops: they wait for labels",
            f"{bgpm} annotate --run": "asks for them in a browser, and runs each round",
        }
        if heldout and not heldout["labelled"]:
            commands[f"{bgpm} annotate --heldout"] = "once: labels to measure the model with"
    else:
        commands = {repro: "runs every round; then see reports/index.html"}
    told = round(splits["pool"]["labelled"] * splits["pool"]["pairs"]) if splits else 0
    if told and params.oracle != "recorded":
        lines.append(
            f"{told} of them have a label in the file, which --oracle {params.oracle} does not read: they are asked "
            "for anew; --oracle recorded takes them"
        )
    width = max(map(len, commands))
    return [*lines, "", *(f"  {command:{width}}  # {does}" for command, does in commands.items())]
