"""A project in which a batch waits, the server as its users start it, and a browser for each person."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import warm
from conftest import warm_server

from bgpm.data.tables import write_table

ROOT = Path(__file__).resolve().parents[2]
RICH = """## Two ways

Use *one* of these, **not both**; `snake_case_name` stays, [the manual](https://example.org/x) is text:

1. a list
2. with `code`
   - nested

```python
print("<b>not bold</b>")
```

| a | b |
|---|---|
| 1 | 2 |

> quoted"""
HOSTILE = """<script>document.title='broken'</script><img src=x onerror="document.title='broken'">
[click](javascript:document.title='broken') ![x](https://attacker.invalid/p.png) <b>bold</b>
```html
</code></pre><script>document.title='broken'</script>
```
&lt;script&gt; \u202eright to left\u202c """


def text(row: int, name: str) -> str:
    """Texts of the pairs; the first two pairs of the batch are not plain."""
    return {(0, "A"): RICH, (1, "A"): HOSTILE, (1, "B"): HOSTILE.upper()}.get(
        (row, name), f"answer {name} of pair {row}"
    )


class Campaign:
    """A folder with a pool, a batch that waits, and the model's opinion of it."""

    def __init__(self, root: Path, pairs: int = 12, **settings: Any) -> None:
        self.root, self.ids = root, [f"pair-{n}" for n in range(pairs)]
        self.store = root / "data/annotations/people.jsonl"
        (root / "data/annotations").mkdir(parents=True)
        self.params(oracles={"human": {"allow_many": False, **settings}})
        self._pool(pairs)
        self.wait("entropy/round-0", self.ids)

    def params(self, **changes: Any) -> None:
        """Write params.yaml: what the page reads of it, with these changes to what is there."""
        path = self.root / "params.yaml"
        before = {"acquisition": "entropy", "baseline": "entropy", "rounds": [{"k": 0, "next": 1}]}
        before |= {"goal": "model", "audit": {}}
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(before | changes), encoding="utf-8")

    def _pool(self, pairs: int) -> None:
        pool, rows = self.root / "data/pool", np.arange(pairs)
        turn = [{"role": "user", "content": f"Question {n}?"} for n in range(pairs)]
        turns = [[t] for t in turn]
        turns[2] = [
            {"role": "system", "content": "Be brief."},
            turn[0],
            {"role": "assistant", "content": "Yes."},
            turn[2],
        ]
        turns[1] = [{"role": "user", "content": HOSTILE}]
        write_table(
            pool / "prompts.parquet",
            {"prompt_id": [f"q{n}" for n in rows], "messages": [json.dumps(t) for t in turns], "text": ["-"] * pairs},
        )
        texts = [text(n, name) for n in range(pairs) for name in "AB"]
        write_table(pool / "responses.parquet", {"text": texts})
        columns = {"prompt": rows, "response_a": 2 * rows, "response_b": 2 * rows + 1}
        names = {"pair_id": self.ids, "section": ["s"] * pairs, "split": ["pool"] * pairs}
        names["key"] = [f"key-{n}" for n in range(pairs)]
        write_table(pool / "pairs.parquet", {**names, **columns})

    def wait(self, where: str, ids: list[str]) -> None:
        """Leave what the stages select and label leave where the labels of a batch are missing."""
        rows = np.array([self.ids.index(name) for name in ids])
        beliefs = {"mean": np.linspace(-1, 1, len(ids)), "variance": np.linspace(0.1, 4, len(ids))}
        common = {"seed": np.zeros(len(ids), int), "pair": rows, **beliefs, "value": np.linspace(0.7, 0.2, len(ids))}
        folder = self.root / "data" / where
        more = {"rank": np.arange(len(ids)), "pair_id": ids, "gain": np.zeros(len(ids))}
        write_table(folder / "batch.parquet", common | more)
        flags = {"tau": np.ones(len(ids)), "uniform": np.zeros(len(ids), bool)}
        write_table(folder / "scores.parquet", common | flags)
        (folder / "waiting.json").write_text(json.dumps({"pairs": ids}), encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """What is in the file of labels."""
        if not self.store.exists():
            return []
        return [json.loads(line) for line in self.store.read_text(encoding="utf-8").splitlines()]


class Running:
    """`bgpm annotate` as a process of its own, a warm one unless it is ``cold``: see warm.py."""

    def __init__(self, root: Path, *arguments: str, cold: bool = False) -> None:
        env, python = {**os.environ, "PYTHONPATH": str(ROOT)}, sys.executable
        if warm.WORKS and not cold:
            env = warm_server().found_by(env)
            python = env["PYTHON_EXEC"]
        self.process = subprocess.Popen(
            [python, "-m", "bgpm", "annotate", "--port", "0", *arguments],
            cwd=root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r"label at (\S+)", line):
                self.url = found[1]
                break
        else:
            raise AssertionError(f"the server ended: {self.said}")
        self.port = int(re.search(r":(\d+)/", self.url)[1])

    def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None, raw: str | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body, by a plain client."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            data = raw if body is None else json.dumps(body)
            default = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, data, {**default, **(headers or {})})
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()
        finally:
            connection.close()

    def annotate(self, annotator: str, pair_id: str, choice: str = "left", **more: Any) -> tuple[int, dict[str, Any]]:
        """One answer; an id of its own unless given."""
        body = {"id": f"{annotator}-{pair_id}", "annotator": annotator, "pair_id": pair_id, "choice": choice}
        status, _, reply = self.request("POST", "/api/answer", {**body, "shown": "ab", "seconds": 1.0, **more})
        return status, json.loads(reply)

    def state(self, annotator: str, query: str = "") -> dict[str, Any]:
        """Where the work stands for a person."""
        status, _, reply = self.request("GET", f"/api/state?annotator={annotator}{query}")
        assert status == 200, reply
        return json.loads(reply)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it has."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(120)
        assert self.process.stdout is not None
        if not self.process.stdout.closed:
            self.process.stdout.read()  # until a warm one has ended too
            self.process.stdout.close()


@pytest.fixture
def campaign(tmp_path: Path) -> Callable[..., Campaign]:
    return lambda **settings: Campaign(tmp_path / "project", **settings)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Start `bgpm annotate` in a folder; it ends with the test."""
    running: list[Running] = []

    def begin(root: Path, *arguments: str, cold: bool = False) -> Running:
        running.append(Running(root, *arguments, cold=cold))
        return running[-1]

    yield begin
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Campaign, Running]]:
    """A campaign and its server, for tests that leave no answer."""
    place = Campaign(tmp_path_factory.mktemp("one") / "project")
    server = Running(place.root)
    yield place, server
    server.stop()
