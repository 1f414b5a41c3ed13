"""The checks of a machine with a GPU: what can be run without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from benchmarks import gpu
from benchmarks.gpu import Check
from bgpm.config import check
from bgpm.data.readers import read_rows
from bgpm.data.schema import PoolSettings
from bgpm.stage import read_params

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def run(monkeypatch: pytest.MonkeyPatch, check: Check, limit: float = 60) -> str:
    monkeypatch.setitem(gpu.CHECKS, "made up", check)
    return gpu.run_one("made up", True, limit)[0]


def test_a_check_says_what_came_of_it_why_it_failed_or_why_it_was_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, Check(command=("-c", "print('first'); print('3 | 4 passed')"))) == "3 / 4 passed"
    assert run(monkeypatch, Check(command=("-c", "import no_such_package"))).startswith("failed: ModuleNotFoundError")
    assert run(monkeypatch, Check(command=("-c", "print('1 failed'); exit(1)"))) == "failed: 1 failed"
    assert run(monkeypatch, Check(command=("-c", "import time; time.sleep(60)")), 0.5).startswith("failed: not ready")
    assert run(monkeypatch, Check(("no_such_package", "torch"))) == "not run: needs no_such_package"


@NO_GPU
def test_without_a_gpu_nothing_is_written_and_what_needs_one_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="torch sees no GPU here"):
        gpu.main(["--output", str(tmp_path / "gpu.md")])
    assert not (tmp_path / "gpu.md").exists()
    assert "a GPU" in gpu.CHECKS["tests"].lacking()
    gpu.main(["--small", "--output", str(tmp_path / "gpu.md"), "loop, qlora"])
    written = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "no GPU, CUDA none" in written
    assert "tiny models" in written
    assert "| loop, qlora | not run: needs" in written


@pytest.mark.parametrize("name", ["scoring, eager", pytest.param("training, sdpa", marks=pytest.mark.repeat)])
def test_the_measures_run_with_a_tiny_model(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--small", "--only", name])
    assert " tokens/s, MFU unknown, " in capsys.readouterr().out


def test_the_round_that_is_fine_tuned_has_parameters_and_rows_that_the_stages_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gpu.write_decoder(tmp_path / "decoder", gpu.TINY)
    gpu.write_rows(tmp_path / "pool.jsonl", 24)
    gpu.write_rows(tmp_path / "benchmark.jsonl", 8, subset="made up", labelled=False)
    for mode, zero3 in (("lora", False), ("full", True)):
        Path("params.yaml").write_text(yaml.safe_dump(gpu.settings(mode, True, zero3)), encoding="utf-8")
        checked = check(read_params())
        assert checked.training.mode == mode
    rows = read_rows(PoolSettings(path="pool.jsonl", heldout=0.3))
    assert {row.label for row in rows} == {0.0, 1.0}
    for row in rows:  # the better response has more of the first hundred words
        good = [sum(int(word[1:]) < 100 for word in text.split()) for text in (row.a, row.b)]
        assert (good[0] > good[1]) == (row.label == 1.0)


@pytest.mark.slow
def test_what_is_in_the_way_of_a_stage_is_the_checks_own_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "write_rows", lambda path, *_, **__: path.write_text("{}\n"))
    with pytest.raises(SystemExit, match=r"stage prepare: error: benchmark.jsonl:1: expected columns"):
        gpu.loop("lora", True)
