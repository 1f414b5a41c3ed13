"""Shared fixtures: a tiny pool, a tiny random backbone, and a project folder of their own to run DVC in."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm
import yaml
from browser import browser  # noqa: F401, a fixture of the tests of pages
from filelock import FileLock
from pools import make_pool  # noqa: F401, a fixture of the tests of acquisition and selection

from benchmarks.pipeline import copy_tracked

ROOT = Path(__file__).resolve().parents[1]
ONE_ROUND = [{"k": 0, "next": 1}]
TWO_ROUNDS = [*ONE_ROUND, {"k": 1, "next": 2}]
SUBJECTS = ["river", "clock", "bread", "engine", "garden", "letter", "winter", "copper", "market", "violin"]
QUALITIES = {"good": "clear useful kind exact helpful", "bad": "vague rude wrong broken useless"}


def tiny_pool(prompts: int = 24, responses: int = 4, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs whose better answer has more good words than bad ones: learnable from word embeddings."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(prompts):
        texts, goodness = [], []
        for k in range(responses):
            good = int(rng.integers(0, 7))
            words = [*rng.choice(QUALITIES["good"].split(), good), *rng.choice(QUALITIES["bad"].split(), 6 - good)]
            rng.shuffle(words)
            texts.append(f"{SUBJECTS[(n + k) % 10]} " + " ".join(words) + f" number{n} answer{k}")
            goodness.append(good)
        for a, b in itertools.combinations(range(responses), 2):
            if goodness[a] != goodness[b]:
                rows.append(
                    {
                        "prompt": f"tell me about the {SUBJECTS[n % 10]} number{n}",
                        "response_a": texts[a],
                        "response_b": texts[b],
                        "label": int(goodness[a] > goodness[b]),
                        "section": ["east", "west"][n % 2],
                    }
                )
    return rows


def tiny_benchmark() -> list[dict[str, Any]]:
    """Chosen and rejected answers in two subsets, on prompts the pool does not have."""
    return [
        {
            "prompt": "question about the " + row["prompt"],
            "chosen": row["response_a" if row["label"] else "response_b"],
            "rejected": row["response_b" if row["label"] else "response_a"],
            "subset": ["alpha", "beta"][n % 2],
        }
        for n, row in enumerate(tiny_pool(8, 3, seed=1))
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_tiny_bert(folder: Path) -> Path:
    """A random two-layer encoder with a word-level vocabulary, saved as a local model folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    words = {w for row in [*tiny_pool(40), *tiny_benchmark()] for v in row.values() for w in str(v).split()}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    tokenizer = BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def with_changes(params: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Parameters changed in place: keys are dotted with double underscores, ``pool__path=...``."""
    for key, value in changes.items():
        *parents, last = key.split("__")
        target = params
        for parent in parents:
            target = target[parent]
        target[last] = value
    return params


@functools.cache
def warm_server() -> warm.Server:
    """A server of warm processes, for as long as this process lives."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))  # a socket's path has to be short
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    server = warm.Server(folder / "bin", Project(folder, cold=True).env)
    atexit.register(server.end)
    return server


class Project:
    """A copy of this repository, as a fresh clone would be, with a tiny pool and one round.

    Its commands run warm, see warm.py, unless it is ``cold``.
    """

    def __init__(self, folder: Path, *, cold: bool = False) -> None:
        self.folder = folder
        self.cold = cold or not warm.WORKS

    @functools.cached_property
    def env(self) -> dict[str, str]:
        """Of its commands: as warm processes where they may be."""
        env = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_", "PYTHONDONTWRITE"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": os.devnull,  # a machine without a git identity
            "GIT_CONFIG_SYSTEM": os.devnull,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(self.folder),
        }
        return env if self.cold else warm_server().found_by(env)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the project; ``python`` is this interpreter."""
        python = shutil.which("python", path=self.env["PATH"])
        assert python is not None
        words = [python if w == "python" else w for w in command]
        done = subprocess.run(words, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            pytest.fail(
                f"{' '.join(command)} exited with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )
        return done

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", "dvc", *arguments, check=check)

    def stage(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", f"stages.{name}", *arguments, check=check)

    def params(self, **changes: Any) -> None:
        """Change params.yaml: keys are dotted with double underscores, ``pool__path=...``."""
        path = self.folder / "params.yaml"
        params = with_changes(yaml.safe_load(path.read_text(encoding="utf-8")), **changes)
        path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@t.invalid", "commit", "-qm", message)

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def clone(self, folder: Path, *, cold: bool = False) -> Project:
        """Another copy with everything in it, caches too."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder, cold=cold)


def make_project(folder: Path) -> Project:
    copy_tracked(folder, ("reports/", "tests/", "dvc.lock"))
    project = Project(folder)
    write_jsonl(folder / "tiny" / "pool.jsonl", tiny_pool())
    write_jsonl(folder / "tiny" / "benchmark.jsonl", tiny_benchmark())
    write_tiny_bert(folder / "tiny" / "backbone")
    project.params(
        acquisition="entropy",
        pool__path="tiny/pool.jsonl",
        pool__seed=0,  # as the study splits its pools
        benchmark__path="tiny/benchmark.jsonl",
        backbone__path="tiny/backbone",
        backbone__sha256=None,
        seeds=[0, 1],
        rounds=ONE_ROUND,
        batch_size=6,
        start__labels=8,
        features__states__pca=16,
        features__blocks=["states"],
        report__resamples=200,
    )
    project.run("git", "init", "-q", "-b", "main")
    project.commit("a tiny pool")
    return project


def ran(output: str) -> list[str]:
    """Names of the stages that a `dvc repro` executed."""
    return re.findall(r"Running stage '([^']+)'", output)


def once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Project:
    """A project that the first test process to ask for it makes, and all share."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with FileLock(root / f"{name}.lock"):
        if not (root / name / "made").exists():
            shutil.rmtree(root / name, ignore_errors=True)  # half made: what failed there shall fail here as well
            make(root / name / "project")
            (root / name / "made").touch()
    return Project(root / name / "project")


@pytest.fixture(scope="session")
def fresh_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Nothing has run in it; tests that change it work on a clone."""
    return once(tmp_path_factory, "fresh", make_project)


@contextlib.contextmanager
def working_in(project: Project) -> Iterator[None]:
    """In a project's folder, to call its stages' ``main`` in this process.

    Torch's threads are given back, of which `embed` takes one a core: the sums of later tests would come out otherwise.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        with contextlib.chdir(project.folder):
            yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def inside() -> Iterator[Callable[[Project], None]]:
    """Goes into a project, to call its stages' ``main`` without a process that first imports everything again.

    For tests that are about neither DVC nor what a stage prints, nor patch what it runs.
    """
    with contextlib.ExitStack() as stack:
        yield lambda project: stack.enter_context(working_in(project))


def up_to_features() -> None:
    """Run the stages of the working directory from the parameters to the features."""
    from stages import check, embed, features, prepare

    check.main()
    prepare.main()
    for which in ("pool", "benchmark"):
        embed.main(which)
    features.main()


def up_to_seed_labels() -> None:
    """Run them on, to the labels of the seed set."""
    from stages import label, plan, start

    up_to_features()
    plan.main()
    start.main()
    label.main("start")


def model_of_every_label(project: Project) -> None:
    """A project prepared, embedded and reduced, and one Bradley-Terry model of every label in its folder ``model``."""
    from bgpm.data.tables import read_table, rows_of
    from bgpm.loop.pool import read_pool
    from bgpm.loop.train import train
    from bgpm.models.bt import Bt
    from bgpm.posteriors.laplace import Laplace

    with working_in(project):
        up_to_features()
        pool = read_pool(Path("data/pool"), Path("data/features/pool"))
        truth = read_table(Path("data/truth/pool.parquet"))
        pair = rows_of(pool.table["pair_id"], truth["pair_id"], "pairs")
        labels = {"pair": pair, "label": truth["label"], "margin": truth["margin"]}
        train(Laplace(prior_precision=1.0), Bt(), pool, labels, seed=0).save(Path("model/seed-0"))


# Python imports a module of this name when it starts, wherever it finds one.
SITE = """
import atexit, pathlib, sys

def write():
    script = pathlib.Path(sys.argv[0])
    if script.parent.name == "stages":
        ours = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ("bgpm", "stages")]
        name = " ".join([script.stem, *sys.argv[1:]])
        (pathlib.Path(__file__).parent / name).write_text("\\n".join(filter(None, ours)))

atexit.register(write)
"""


@pytest.fixture(scope="session")
def finished_project(fresh_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """`dvc repro` has run once, and its results are committed; tests that change it work on a clone.

    Which of our files each stage had loaded when it ended stands beside the project, in ``loaded/STAGE ARGUMENTS``.
    """

    def make(folder: Path) -> None:
        project = fresh_project.clone(folder)
        loaded = folder.parent / "loaded"
        loaded.mkdir()
        (loaded / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        project.env["PYTHONPATH"] = f"{folder}{os.pathsep}{loaded}"
        project.dvc("repro")
        project.commit("results")

    return once(tmp_path_factory, "finished", make)


PROJECTS = {"fresh_project", "finished_project"}
SLOW = PROJECTS | {"lora", "full", "start"}  # a backbone is trained, a server started for each test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for a slow fixture is slow, whether it says so or not; files with the longest tests come first.

    Of two workers, none then waits at the end for a long test of the other.
    """
    long = set()
    for item in items:
        asked = set(getattr(item, "fixturenames", ()))
        if SLOW & asked:
            item.add_marker(pytest.mark.slow)
        if PROJECTS & asked or item.get_closest_marker("distributed"):
            long.add(item.path)
    items.sort(key=lambda item: item.path not in long)
