"""A warm process is to its caller what a new one is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import warm
from conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not warm.WORKS, reason="processes run warm on Linux alone")]
LOADED = "import sys; print([name in sys.modules for name in ('torch', 'dvc', 'transformers', 'bgpm')])"


@pytest.mark.parametrize(
    "program",
    [
        "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)",
        "import sys; sys.exit('in words')",
        "raise ValueError('in words')",
        "import sys; print(sys.argv, sys.orig_argv[1:], __name__, sys.path[:2], sys.executable)",
        "import os; own = ('PATH', 'PYTHON_EXEC', '_')\n"
        "print(os.getcwd(), sorted((k, v) for k, v in os.environ.items() if k not in own))",
        "import sys; print(sys.stdin.read())",
        "import atexit; atexit.register(print, 'at the end'); print('first')",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import bgpm, stages.label; print(bgpm.__file__, stages.label.__file__)",
        "import one; one.main()",
    ],
)
def test_a_warm_process_ends_and_prints_like_a_new_one(program: str, tmp_path: Path) -> None:
    for name in ("bgpm", "stages"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "stages/label.py").touch()
    (tmp_path / "sitecustomize.py").write_text("print('site', flush=True)\n", encoding="utf-8")
    (tmp_path / "one.py").write_text("def main(): print(__file__, __name__)\n", encoding="utf-8")
    new, forked = (
        subprocess.run(
            ["python", "-c", program, "a b", "ü"], cwd=tmp_path, env=Project(tmp_path, cold=cold).env,
            executable=python(tmp_path, cold), input="given", capture_output=True, text=True, check=False,
        )
        for cold in (True, False)
    )  # fmt: skip
    assert new.stdout or new.returncode
    assert (forked.returncode, forked.stdout) == (new.returncode, new.stdout)
    assert forked.stderr.splitlines()[-1:] == new.stderr.splitlines()[-1:]


def python(folder: Path, cold: bool) -> str:
    return str(Path(Project(folder, cold=cold).env["PATH"].split(os.pathsep)[0], "python"))


def test_libraries_are_there_at_once_and_our_own_code_is_not(tmp_path: Path) -> None:
    assert Project(tmp_path).run("python", "-c", LOADED).stdout == "[True, True, True, False]\n"
    assert Project(tmp_path, cold=True).run("python", "-c", LOADED).stdout == "[False, False, False, False]\n"


def test_a_rank_of_torchrun_is_warm_and_writes_at_once(tmp_path: Path) -> None:
    rank = ["-u", "-c", LOADED + "; import os; os._exit(4)"]  # writes out nothing that waits
    done = Project(tmp_path).run("python", *rank, check=False)
    assert (done.returncode, done.stdout) == (4, "[True, True, True, False]\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_ends_a_warm_process_ends_its_work(number: signal.Signals, tmp_path: Path) -> None:
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    command = [python(tmp_path, False), "-c", program]
    with subprocess.Popen(command, cwd=tmp_path, env=Project(tmp_path).env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert child != process.pid
        process.send_signal(number)
        assert process.wait() == -number
    deadline = time.monotonic() + 30
    while Path("/proc", str(child)).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
