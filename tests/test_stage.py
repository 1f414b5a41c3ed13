"""What every stage shares: parameters, whole outputs, one clear error, independent randomness."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.utils.serialize import parse_yaml

from bgpm import stage
from bgpm.errors import ConfigError, StateError
from bgpm.rounds import rounds

ROOT = Path(__file__).resolve().parents[1]


def read(folder: Path, text: str) -> dict:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return stage.read_params(path)


NUMBERS = """
    1e-5 1E5 1e5 +1e3 -2e-3 6.02e23 1.e-3 1.5e3 .5 -.5 +.5 1. 0.5 12e03 1_000 1_0.5 0x1F .inf -.inf .nan 1e e5 .5e1
    a-1e5 1.2.3 true False null ~ 7 -7 '1e5' yes No on off 012 0o17 1:30 2026-01-01
"""


@pytest.mark.parametrize("written", NUMBERS.split())
def test_a_number_is_read_as_dvc_reads_it(tmp_path: Path, written: str) -> None:
    ours, dvc = read(tmp_path, f"k: {written}\n")["k"], parse_yaml(f"k: {written}\n", "params.yaml")["k"]
    assert repr(ours) == repr(dvc)


def test_a_bare_exponent_is_a_number_here_and_only_here(tmp_path: Path) -> None:
    assert read(tmp_path, "prior: 1e-5")["prior"] == 1e-5
    assert yaml.safe_load("prior: 1e-5")["prior"] == "1e-5"  # as PyYAML reads it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", r"params\.yaml: is not valid YAML: .*line 2"),
        ("- 1\n", r"params\.yaml: expected a mapping of parameters, got list"),
        ("", r"params\.yaml: expected a mapping of parameters, got NoneType"),
        ("a: !!python/object/apply:os.getcwd []\n", r"params\.yaml: is not valid YAML: .*line 1"),
    ],
)
def test_what_is_not_a_mapping_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_absent_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not found; go to the folder of the campaign or the repository"):
        stage.read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        stage.read_params(tmp_path / "params.yaml")


def test_a_setting_is_found_by_its_dotted_key_and_named_when_missing() -> None:
    params = {"pool": {"path": None}, "seeds": [1]}
    assert stage.setting(params, "pool.path") is None
    for key in ("pool.hub", "pol.path", "seeds.0", "pool.path.x"):
        with pytest.raises(ConfigError, match=f"params.yaml: {key}: missing"):
            stage.setting(params, key)


def test_a_whole_folder_replaces_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    target.mkdir(parents=True)
    (target / "old").write_text("old")
    (tmp_path / "deep" / "model.part").mkdir()
    (tmp_path / "deep" / "model.part" / "leftover of a kill").write_text("x")
    with stage.whole_folder(target) as folder:
        (folder / "new").write_text("new")
        assert [p.name for p in target.iterdir()] == ["old"]  # nothing is lost before the block has ended
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in target.parent.iterdir()] == ["model"]


def write_half(target: Path, error: BaseException) -> None:
    with stage.whole_folder(target) as folder:
        (folder / "half").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_whole_folder_leaves_nothing_on_an_error_and_keeps_what_was_there(
    tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        write_half(tmp_path / "model", error())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").write_text("old")
    with pytest.raises(error):
        write_half(tmp_path / "model", error())
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["model", "model/old"]


def test_json_is_sorted_whole_and_never_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a" / "metrics.json"
    stage.write_json(path, {"b": 1, "a": [0.5]})
    assert path.read_text() == '{\n  "a": [\n    0.5\n  ],\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        stage.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [0.5], "b": 1}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    "error", [ConfigError("params.yaml: seeds: every seed must differ"), OSError(28, "No space left")]
)
def test_run_prints_one_error_line_and_exits_with_1(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/stages/score.py", "random", "0"])

    def main(arm: str, k: str) -> None:
        assert (arm, k) == ("random", "0")
        raise error

    with pytest.raises(SystemExit) as left:
        stage.run(main)
    assert left.value.code == 1
    assert capsys.readouterr().err == f"error: {error}\n"
    assert list(tmp_path.iterdir()) == []  # a failed stage has no cost worth noting


def test_run_lets_a_defect_show_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["score.py"])
    with pytest.raises(ZeroDivisionError):
        stage.run(lambda: print(1 // 0))


def test_run_notes_time_and_memory_of_a_stage_that_ended_well(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/somewhere/stages/train.py", "bald", "3"])
    stage.run(lambda arm, k: None)
    cost = json.loads((tmp_path / ".timings" / "train-bald-3.json").read_text())
    assert set(cost) == {"seconds", "cpu_seconds", "peak_mib"}
    assert 0 <= cost["seconds"] < 60
    assert 20 < cost["peak_mib"] < 1e5
    (tmp_path / ".timings" / "train-bald-3.json").unlink()
    (tmp_path / ".timings").rmdir()
    (tmp_path / ".timings").write_text("in the way")
    stage.run(lambda arm, k: None)  # work that is done is not lost over its cost
    assert "time and memory of train-bald-3 were not noted" in caplog.text


def test_a_stage_run_in_the_wrong_folder_says_so_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.check"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    where = "go to the folder of the campaign or the repository (some commands take it as --root)"
    assert done.stderr == f"error: params.yaml: not found; {where}\n"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_generator_depends_on_every_part_and_on_nothing_else() -> None:
    parts: list[tuple[int | str, ...]] = [
        (), (0,), (1,), ("0",), ("1",), (0, 0), (0, 1), (1, 0), ("score",), ("score", 0), ("score", 0, 0), (0, "score"),
        ("score", "random", 0), ("score", "entropy", 0), ("select", "random", 0), ("score,random", 0),
        ("scorerandom", 0), (2**32 + 5,), (5, 1), (2**64,), (-1,), ("-1",), ("[1]",),
    ]  # fmt: skip
    first = [stage.generator(*p).random(4) for p in parts]
    again = [stage.generator(*p).random(4) for p in parts]
    np.testing.assert_array_equal(first, again)
    for a, b in itertools.combinations(range(len(parts)), 2):
        assert not np.isclose(first[a], first[b]).any(), f"{parts[a]} and {parts[b]} draw the same numbers"


def test_generators_of_neighbouring_seeds_are_uncorrelated() -> None:
    draws = np.array([stage.generator("score", seed).standard_normal(4000) for seed in range(12)])
    off_diagonal = np.corrcoef(draws)[np.triu_indices(12, 1)]
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(4000)  # 66 correlations, each of standard error 1 / sqrt(4000)


def test_seeds_are_found_in_numeric_order(tmp_path: Path) -> None:
    for seed in (10, 9, 0):
        (tmp_path / f"seed-{seed}.json").touch()
        (tmp_path / f"seed-{seed}.safetensors").touch()
    assert stage.seeds_of(tmp_path) == [0, 9, 10]
    with pytest.raises(StateError, match="no model in it; run `dvc repro` or `dvc checkout`"):
        stage.seeds_of(tmp_path / "none")


def test_the_shared_beginning_has_one_folder_and_every_arm_its_own() -> None:
    assert stage.round_dir("start", 0) == Path("data/start")
    assert stage.round_dir("bald", "3") == Path("data/bald/round-3")


def test_rounds_are_printed_as_dvc_takes_them() -> None:
    assert yaml.safe_load(rounds(3)) == [{"k": 0, "next": 1}, {"k": 1, "next": 2}, {"k": 2, "next": 3}]
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        rounds(0)


@pytest.mark.parametrize("words", [[], ["0"], ["-1"], ["²"], ["many"], ["1", "2"]])
def test_rounds_on_the_command_line_answer_nonsense_with_their_usage(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bgpm.rounds", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "usage: python -m bgpm.rounds NUMBER\n"


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    """As root, a file that took the place of /dev/null would break every program of the machine."""
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    stage.write_text(pipe, "a line\n")
    reader.join()
    assert found == ["a line\n"]
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe"]
