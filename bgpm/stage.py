"""What every stage shares: where files lie, its parameters, one clear error, time and memory.

Paths follow one convention, held here and in dvc.yaml only::

    data/code/<stage>           a fingerprint of the code that a stage runs
    data/arms/<arm>.json        which acquisition function an arm is, and its settings
    data/plan.json              how many pairs are audited after each round
    data/training.json          what training the backbone depends on: nothing while it is frozen
    data/likelihood.json        whether features ask the backbone how likely responses are, and how it reads pairs
    data/columns/               numbers of responses that the files have
    data/pool  data/benchmark  data/truth/{pool,heldout,benchmark}.parquet
    data/embeddings/{pool,benchmark}  data/features/{pool,benchmark}  data/texts.json
    data/study/                 pools and loops of the study; columns/ beside tables/, of each pool
    data/start/                 the seed labels and model 0, shared by every arm
    data/offline/               a model of all labels, outside the loop: labels.parquet  model/  evaluation/
    data/<arm>/round-<k>/       labels.parquet  everything acquired so far (column `round` says when)
                                model/          trained on those labels; with a trained backbone its
                                                seed-<n>/{backbone,features/{pool,benchmark}} too
                                audits.parquet  labels of audited pairs, which train nothing
                                annotations.jsonl  what the labels of the last batch rest on, frozen
                                evaluation/     the learning curve up to here
                                scores.parquet  what model k thinks of every unlabelled pair
                                batch.parquet   the pairs to be labelled next
                                asked.parquet   the same with new audits among them, while there are any
                                waiting.json    which of them people are asked for, while the stage waits for them
    data/annotations/           what people and judges answered; heldout/ for held-out pairs; checks/ of annotators

A stage runs as ``python -m stages.NAME ARGUMENTS`` in the repository's root.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from bgpm.errors import BgpmError, ConfigError, StateError, visible
from bgpm.values import parse_yaml

DATA = Path("data")
CODE = DATA / "code"
ARMS = DATA / "arms"
POOL = DATA / "pool"
BENCHMARK = DATA / "benchmark"
COLUMNS = DATA / "columns"  # numbers of responses that the files have
TRUTH = DATA / "truth"
EMBEDDINGS = DATA / "embeddings"
FEATURES = DATA / "features"
ANNOTATIONS = DATA / "annotations"
HELDOUT_ANNOTATIONS = ANNOTATIONS / "heldout"
START = DATA / "start"
OFFLINE = DATA / "offline"
TRAINING = DATA / "training.json"
READS = "reads.json"  # beside features and frozen models: the map, and how texts are read
LIKELIHOOD = DATA / "likelihood.json"
TEXTS = DATA / "texts.json"
PLAN = DATA / "plan.json"
STUDY = DATA / "study"
WAITING = "waiting.json"  # beside a batch; DVC does not know it, nor the next one
ASKED = "asked.parquet"
FROZEN = "annotations.jsonl"  # beside the labels that rest on it
REPORTS = Path("reports")
TIMINGS = Path(".timings")  # side files: no stage depends on them, DVC does not know them

log = logging.getLogger("bgpm")


def round_dir(arm: str, k: int | str) -> Path:
    """Folder of one arm's round; ``round_dir("start", 0)`` is the shared beginning, ``offline`` is no arm either."""
    return {"start": START, "offline": OFFLINE}.get(arm, DATA / arm / f"round-{int(k)}")


def number_of(folder: Path) -> int:
    """K of a folder ``round-K``."""
    return int(folder.name.removeprefix("round-"))


def features_dir(model: Path, seed: int, which: str) -> Path:
    """Folder of the features of ``pool`` or ``benchmark`` that a seed's model reads: of its own backbone where that
    was trained with it, of the frozen one otherwise."""
    own = model / f"seed-{seed}" / "features" / which
    return own if own.is_dir() else FEATURES / which


def read_params(path: Path = Path("params.yaml")) -> dict[str, Any]:
    """params.yaml as plain values, read as DVC reads it.

    Raises:
        ConfigError: If the file is absent or is not a YAML mapping, or has a key twice; names the line.
    """
    try:
        params = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: not found; go to the folder of the campaign or the repository (some commands take it as --root)"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict):
        raise ConfigError(f"{path}: expected a mapping of parameters, got {type(params).__name__}")
    return params


def setting(params: Mapping[str, Any], key: str) -> Any:
    """A value of params.yaml by its dotted key; ConfigError when it is not there."""
    value: Any = params
    for step in key.split("."):
        if not isinstance(value, Mapping) or step not in value:
            raise ConfigError(f"params.yaml: {key}: missing; `git checkout params.yaml` brings back the defaults")
        value = value[step]
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all; straight into a device or a pipe, whose place no file may take."""
    if path.exists() and (not path.is_file() or Path("/dev") in path.absolute().parents):
        path.write_text(text, encoding="utf-8")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into that takes the name ``path`` only when the block ends without an error."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
    except BaseException:  # Ctrl-C too
        shutil.rmtree(part, ignore_errors=True)
        raise
    shutil.rmtree(path, ignore_errors=True)
    part.replace(path)


def run(main: Callable[..., None]) -> None:
    """Run a stage's ``main(*arguments)``: one clear error and exit code 1, or a line on time and memory."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpx2", "transformers", "datasets", "filelock", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    name = "-".join([Path(sys.argv[0]).stem, *sys.argv[1:]])
    began = time.perf_counter()
    try:
        main(*sys.argv[1:])
    except (BgpmError, OSError) as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted: `dvc repro` goes on from here", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    if "RANK" in os.environ:  # one of several processes: the stage that started them notes for all
        _leave()
    # Children are what a launcher started on this machine; memory is the largest process's.
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = max(u.ru_maxrss for u in usage)
    _note_cost(
        name,
        {
            "seconds": round(time.perf_counter() - began, 3),
            "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 3),
            "peak_mib": round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1),
        },
    )


def _leave() -> NoReturn:
    """Flush the output and exit with code 0, skipping interpreter shutdown.

    Libraries hold process groups for as long as Python lives. While it ends, a thread of such a group that lets go of
    its last tensor aborts the process, and the launcher then reports work that is done as failed.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _note_cost(name: str, cost: Mapping[str, float]) -> None:
    try:
        write_json(TIMINGS / f"{name}.json", cost)
    except OSError as error:  # a full disk must not fail work that is done
        log.warning("time and memory of %s were not noted: %s", name, error)


def generator(*parts: int | str) -> np.random.Generator:
    """A random generator that depends on these parts alone, such as a seed, a stage's name and a round.

    Any other list of parts gives an independent one: parts are hashed, because numpy's own seeding takes
    [1] and [1, 0], or [2**32 + 5] and [5, 1], for the same.
    """
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def seeds_of(model: Path) -> list[int]:
    """Seeds that a round's model folder holds, sorted; StateError when it holds none."""
    seeds = sorted(int(path.stem.removeprefix("seed-")) for path in model.glob("seed-*.json"))
    if not seeds:
        inside = f"; it is in {model / 'model'}" if any((model / "model").glob("seed-*.json")) else ""
        raise StateError(f"{model}: no model in it{inside or '; run `dvc repro` or `dvc checkout`'}")
    return seeds
