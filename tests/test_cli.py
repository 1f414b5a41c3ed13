"""The command line: one entry point, whose commands load what they need and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bgpm.cli import COMMANDS, main, parser

ROOT = Path(__file__).resolve().parents[1]


def test_every_command_is_listed_by_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in shown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_knows_its_options_and_what_to_run(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser(command).parse_args([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: bgpm {command}" in capsys.readouterr().out
    assert callable(parser(command)._subparsers._group_actions[0].choices[command].get_default("run"))  # type: ignore[union-attr,index]


def test_a_list_of_rounds_is_printed_without_loading_torch_or_pandas() -> None:
    code = (
        "import sys; from bgpm.cli import main; main(['rounds', '2']); "
        "assert not {'torch', 'pandas', 'numpy', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[{k: 0, next: 1}, {k: 1, next: 2}]\n"


@pytest.mark.parametrize("module", ["bgpm", "bgpm.cli"])
def test_a_python_without_the_libraries_says_so_in_one_line_or_does_without(module: str) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", module, *words]  # -S: without what is installed beside this Python
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run("rounds", "1").stdout == "[{k: 0, next: 1}]\n"
    done = run("score", "pairs.jsonl", "--model", "model")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")
    assert "lacks numpy, pydantic, torch: run `make install`" in done.stderr


def test_a_stage_under_a_python_without_the_libraries_says_so_in_one_line() -> None:
    command = [sys.executable, "-S", "-m", "stages.select"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "lacks numpy, pydantic, torch: run `make install`" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rounds", "0"], "error: rounds: at least 1, got 0"),
        (["batch", "nowhere.parquet"], "data/pool/prompts.parquet: cannot be read"),
        (["study", ""], "error: no folder given: make study POOLS=FOLDER"),
        (["labels", "export", "nowhere.jsonl"], "error: nowhere.jsonl: no such file"),
        (["labels", "import", "nowhere.csv", "store.txt"], "labels are read from .jsonl files only"),
    ],
)
def test_what_goes_wrong_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert said in str(ended.value.code)
    assert "\n" not in str(ended.value.code)


def test_a_word_that_is_no_command_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["anotate"])
    assert ended.value.code == 2
    assert "'annotate'" in capsys.readouterr().err
