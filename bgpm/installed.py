"""The installed package as a campaign outside its repository sees it: its code, and the pipeline that it brings.

In the repository dvc.yaml depends on the folders of the code. A campaign has no code beside it: there the stage
`package` runs every time and writes which version is installed and one hash over all of its sources, so that DVC runs
`check` anew after an upgrade, and of the other stages those whose own code changed.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import bgpm
from bgpm.errors import StateError
from bgpm.fingerprints import LAYOUT

ROOT = Path(bgpm.__file__).resolve().parents[1]
LAUNCHER = Path(".bgpm/python")  # in a campaign; a copy of stages/python
PACKAGE = Path("data/package.json")
FIRST = "# The pipeline of bgpm {version} for a campaign, {digest}. `bgpm init --update .` writes that of a newer bgpm."
STAGE = f"""stages:
  package:
    desc: Look which bgpm is installed
    cmd: sh {LAUNCHER} -P -m bgpm.stages.package
    always_changed: true
    outs: [{PACKAGE}]

"""
DIGEST = re.compile(r"# The pipeline of bgpm \S+ for a campaign, (\w+)\.")
CODE = "deps: [params.yaml, stages, bgpm]"  # of the stage check, in the repository


def pipeline_file(name: str) -> Path:
    """A file of the pipeline by its path in the repository; a wheel has it in bgpm/pipeline/."""
    wheel = ROOT / "bgpm" / "pipeline"
    return (wheel if wheel.is_dir() else ROOT) / name


def default_params() -> str:
    """params.yaml as it ships: in the repository as last committed, since ``dvc exp run -S`` leaves values there."""
    file = pipeline_file("params.yaml")
    if file.parent == ROOT:
        shown = subprocess.run(["git", "show", "HEAD:./params.yaml"], cwd=ROOT, capture_output=True, check=False)
        if shown.returncode == 0:
            return shown.stdout.decode()
    return file.read_text(encoding="utf-8")


def stages_folder() -> Path:
    """The folder of the stages: bgpm/stages/ of a wheel, stages/ of the repository."""
    wheel = ROOT / "bgpm" / "stages"
    return wheel if wheel.is_dir() else ROOT / "stages"


def fingerprint() -> dict[str, str]:
    """The package's version, and SHA-256 over names and contents of all its modules, templates and style sheets."""
    digest = hashlib.sha256()
    for folder in (ROOT / "bgpm", stages_folder()):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", *LAYOUT)):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return {"version": version("bgpm"), "sha256": digest.hexdigest()}


def campaign_pipeline() -> str:
    """dvc.yaml of a campaign: the repository's, with the installed package in place of the code beside it."""
    text = pipeline_file("dvc.yaml").read_text(encoding="utf-8")
    text = text.replace("sh stages/python -m stages.", f"sh {LAUNCHER} -P -m bgpm.stages.")
    text = text.replace(CODE, f"deps: [params.yaml, {PACKAGE}]").replace("stages:\n", STAGE, 1)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{FIRST.format(version=version('bgpm'), digest=digest)}\n{text}"


def is_campaign(path: Path) -> bool:
    """Whether a dvc.yaml was made by `campaign_pipeline`."""
    return _made_from(path) is not None


def check_pipeline(path: Path) -> None:
    """Refuse a campaign's dvc.yaml that was made from another pipeline than the installed one.

    Raises:
        StateError: With the command that writes it anew.
    """
    made, mine = _made_from(path), DIGEST.match(campaign_pipeline())
    assert mine
    if made != mine[1]:
        raise StateError(
            f"{path}: its first line names pipeline {made}, and that of the installed bgpm {version('bgpm')} is "
            f"{mine[1]}: run `bgpm init --update .`, which writes {path} anew and leaves settings and labels alone"
        )


def _made_from(path: Path) -> str | None:
    found = DIGEST.match(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found[1] if found else None
