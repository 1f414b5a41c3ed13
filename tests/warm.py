"""Python commands that start from a process which has imported torch, transformers and DVC already.

A command of a `conftest.Project` starts as ``python -m stages.train``: the first ``python`` on its PATH is a client of
a server that this file runs. The server forks: the child takes the command's folder, environment, arguments, open files
and the signals that it ignores, imports our own code from the project like a new process, and its exit code or signal
becomes the client's. What differs from a new process: libraries stand in ``sys.modules`` before anything asks for them,
all children have one hash seed, a signal to the process group reaches the client alone, and DVC parses a YAML text that
it has seen only once. Tests of these have a `Project` that is cold.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import os
import pickle
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

LIBRARIES = (
    *("dulwich.ignore", "dulwich.worktree", "dvc.cachemgr", "dvc.cli.parser", "dvc.commands.experiments.run"),
    *("dvc.commands.repro", "dvc.data_cloud", "dvc.dirs", "dvc.lock", "dvc.repo.artifacts", "dvc.repo.datasets"),
    *("dvc.repo.graph", "dvc.repo.index", "dvc.repo.metrics", "dvc.repo.open_repo", "dvc.repo.params"),
    *("dvc.repo.plots", "dvc.repo.reproduce", "dvc.repo.stage", "dvc.rwlock", "dvc.scm", "dvc.utils.strictyaml"),
    *("dvc_data.hashfile.db.local", "fsspec.implementations.memory", "hydra.utils", "matplotlib.backends.backend_agg"),
    *("matplotlib.backends.backend_svg", "matplotlib.pyplot", "networkx", "pandas", "pyarrow.dataset"),
    *("pyarrow.pandas_compat", "pyarrow.parquet", "pydantic.main", "pydantic.types", "safetensors.torch"),
    *("scipy.optimize", "scipy.stats", "sklearn.cluster", "sklearn.feature_extraction.text", "torch", "tqdm"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto"),
    *("transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert"),
    "transformers.trainer",  # with accelerate and peft
)
WORKS = sys.platform == "linux"  # elsewhere a process that has loaded such libraries cannot be relied on to fork

# Sends a command with its open files, passes signals on, and ends as the command ended.
CLIENT = """#!{python} -IS
import array, os, signal, socket, sys

words = sys.argv[1:]
if words[:1] == ["-u"]:  # of torchrun's ranks
    words = words[1:]  # what is forked writes at once anyway: DVC's colours flush
safe = words[:1] == ["-P"]  # of stages in a campaign: the folder is not searched for modules
if words[safe : safe + 1] not in (["-m"], ["-c"]):
    os.execv({python!r}, [{python!r}, *words])
both = [signal.SIGINT, signal.SIGTERM]
signal.pthread_sigmask(signal.SIG_BLOCK, both)
ignored = [int(number) for number in both if signal.getsignal(number) == signal.SIG_IGN]
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
inner = [os.getcwd(), " ".join(map(str, ignored)), str(len(words)), *words]
inner += [f"{{k}}={{v}}" for k, v in os.environ.items()]
body = "\\0".join(inner).encode(errors="surrogateescape")
server.sendmsg([len(body).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(body)
pid = int.from_bytes(server.recv(8, socket.MSG_WAITALL), "big")
for number in both:
    if number not in ignored:
        signal.signal(number, lambda number, _: os.kill(pid, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
answer = server.recv(8, socket.MSG_WAITALL)
if len(answer) < 8:
    sys.exit("the server of warm processes has ended")
code = int.from_bytes(answer, "big", signed=True)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class Server:
    """A server of warm processes, and the folder whose ``python`` is its client; it ends with this process.

    Args:
        python: Whose processes they are.
    """

    def __init__(self, folder: Path, env: Mapping[str, str], python: str = sys.executable) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        address = folder / "socket"
        (folder / "python").write_text(CLIENT.format(python=python, address=str(address)))
        (folder / "dvc").write_text('#!/bin/sh\nexec python -m dvc "$@"\n')
        (folder / "bgpm").write_text(
            '#!/bin/sh\nexec python -m bgpm "$@"\n'
        )  # stages/python looks for it beside python
        for name in ("python", "dvc", "bgpm"):
            (folder / name).chmod(0o755)
        kept = {name: value for name, value in env.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [python, str(Path(__file__)), str(address)],
            cwd=folder, env=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def found_by(self, env: Mapping[str, str]) -> dict[str, str]:
        """An environment in which ``python`` is the client, also of the ranks that torchrun starts."""
        client = str(self.folder / "python")
        return {**env, "PATH": f"{self.folder}{os.pathsep}{env['PATH']}", "PYTHON_EXEC": client}

    def end(self) -> None:
        with self.process:  # closes its input, at which it ends
            pass


def serve(address: str) -> None:
    """Fork for every client until the standard input ends: a client that goes takes its child with it."""
    _import_libraries()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    children: dict[int, tuple[int, socket.socket]] = {}  # pidfd: process and client
    while True:
        clients = {client.fileno(): pid for pid, client in children.values()}
        for ready in select.select([0, listener, *children, *clients], [], [])[0]:
            if ready == 0:
                for pid, _ in children.values():
                    os.kill(pid, signal.SIGKILL)
                return
            if ready is listener:
                client, _ = listener.accept()
                files, words = _receive(client)
                if (pid := os.fork()) == 0:
                    listener.close()
                    client.close()
                    for fd, (_, other) in children.items():
                        os.close(fd)
                        other.close()
                    _become(files, words)
                for file in files:
                    os.close(file)
                client.sendall(pid.to_bytes(8, "big"))
                children[os.pidfd_open(pid)] = pid, client
            elif ready in children:
                pid, client = children.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(OSError):  # it may be gone
                    client.sendall(code.to_bytes(8, "big", signed=True))
                client.close()
                os.close(ready)
            elif any(client.fileno() == ready for _, client in children.values()):
                os.kill(clients[ready], signal.SIGKILL)
                break  # its child is seen next


def _import_libraries() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    _parse_yaml_once()
    gc.freeze()  # memory that children share


def _parse_yaml_once() -> None:
    """Let DVC keep what it has read: it reads params.yaml again for every stage."""
    from dvc.utils.serialize import _yaml

    parse = _yaml.parse_yaml

    @functools.cache
    def pickled(text: str, path: str) -> bytes:
        return pickle.dumps(parse(text, path))

    def parse_yaml(text: str, path: Any, typ: str = "safe") -> Any:
        return pickle.loads(pickled(text, str(path))) if typ == "safe" else parse(text, path, typ)

    _yaml.parse_yaml = parse_yaml


def _receive(client: socket.socket) -> tuple[list[int], list[str]]:
    size, given, _, _ = client.recvmsg(8, socket.CMSG_SPACE(12))
    files = array.array("i", given[0][2]).tolist()
    body = client.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
    return files, body.decode(errors="surrogateescape").split("\0")


def _become(files: list[int], words: list[str]) -> NoReturn:
    """Be the process that was asked for: its files, folder, environment, path of imports and program."""
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        folder, ignored, count, *rest = words
        for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
            signal.signal(number, signal.SIG_IGN if str(int(number)) in ignored.split() else usual)
        command, environment = rest[: int(count)], rest[int(count) :]
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variable.split("=", 1) for variable in environment)
        code = _run(folder, command)
    except BaseException:  # noqa: BLE001, what a new process would print too
        traceback.print_exc()
    finally:
        os._exit(code)


def _run(folder: str, command: list[str]) -> int:
    safe = command[0] == "-P"
    option, program, *arguments = command[safe:]
    above = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [*([] if safe else [folder if option == "-m" else ""]), *above]
    sys.orig_argv = [sys.executable, *command]
    code: Any = 0
    try:
        if any((Path(path) / "sitecustomize.py").exists() for path in above):
            sys.modules.pop("sitecustomize", None)
            import sitecustomize  # noqa: F401
        main = ModuleType("__main__")
        sys.modules["__main__"] = main
        sys.argv = [option, *arguments]
        if option == "-m":
            runpy._run_module_as_main(program)  # pyright: ignore[reportAttributeAccessIssue]; what ``python -m`` calls
        else:
            exec(compile(program, "<string>", "exec"), main.__dict__)
    except SystemExit as error:
        code = error.code
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001, a new process would print it too
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return (code or 0) & 255


if __name__ == "__main__":
    sys.path.pop(0)  # this folder
    serve(sys.argv[1])
