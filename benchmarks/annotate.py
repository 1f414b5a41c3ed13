"""Answers that the labelling page takes: `bgpm annotate` with a batch of 10,000 pairs, and people who never rest.

The reference is what the page may not fall short of: 200 answers a second, all people together. An answer is a request
that is on the disk when its reply comes, and the reply holds the next pairs. CPU seconds are the server's own.

``python -m benchmarks.annotate``
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from bgpm.data.tables import write_table

PARAMS = {"acquisition": "entropy", "baseline": "entropy", "rounds": [{"k": 0, "next": 1}], "oracles": {"human": {}}}


def campaign(root: Path, pairs: int) -> None:
    """A folder in which a batch of so many pairs waits."""
    rows, names = np.arange(pairs), [f"pair-{n}" for n in range(pairs)]
    (root / "params.yaml").write_text(json.dumps(PARAMS), encoding="utf-8")
    turns = [json.dumps([{"role": "user", "content": f"Question {n}? " + "word " * 40}]) for n in rows]
    write_table(root / "data/pool/prompts.parquet", {"messages": turns})
    texts = [f"response {n} " + "word " * 80 for n in range(2 * pairs)]
    write_table(root / "data/pool/responses.parquet", {"text": texts})
    columns = {
        "pair_id": names,
        "prompt": rows,
        "response_a": 2 * rows,
        "response_b": 2 * rows + 1,
        "section": ["s"] * pairs,
    }
    write_table(root / "data/pool/pairs.parquet", columns)
    folder = root / "data/entropy/round-0"
    write_table(folder / "batch.parquet", {"pair_id": names})
    (folder / "waiting.json").write_text(json.dumps({"pairs": names}), encoding="utf-8")


def label(port: int, name: str, annotations: int) -> None:
    """One person's answers, each to the pair that the last reply put first."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", f"/api/state?annotator={name}")
    state = json.loads(connection.getresponse().read())
    for n in range(annotations):
        question = state["queue"][0]
        body = {"id": f"{name}-{n}", "annotator": name, "choice": "left", "seconds": 1.0}
        body |= {key: question[key] for key in ("pair_id", "shown")}
        connection.request("POST", "/api/answer", json.dumps(body), {"Content-Type": "application/json"})
        state = json.loads(connection.getresponse().read())["state"]
    connection.close()


def measure(pairs: int, people: int, annotations: int) -> tuple[float, float]:
    """Seconds, and the server's CPU seconds after its start, for so many answers of each of so many people."""
    with tempfile.TemporaryDirectory() as folder:
        campaign(Path(folder), pairs)
        command = [sys.executable, "-m", "bgpm", "annotate", "--port", "0"]
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            found = next(m for line in server.stdout if (m := re.search(r"label at http://[^:]+:(\d+)/", line)))
            start, before = time.perf_counter(), _cpu_seconds(server.pid)
            crowd = [threading.Thread(target=label, args=(int(found[1]), f"p{n}", annotations)) for n in range(people)]
            for person in crowd:
                person.start()
            for person in crowd:
                person.join()
            taken = time.perf_counter() - start, _cpu_seconds(server.pid) - before
            kept = (Path(folder) / "data/annotations/people.jsonl").read_bytes().count(b"\n")
            assert kept == people * annotations, f"{kept} of {people * annotations} answers are on the disk"
            server.terminate()
            server.communicate()
    return taken


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of answers")
    annotations = max(1, round(200 * parser.parse_args().scale))
    print("| pairs in the batch | people | answers | answers a CPU second | answers a second | at least |")
    print("|---|---|---|---|---|---|")
    for pairs in (100, 10_000):
        for people in (1, 8):
            each = min(annotations, pairs // people)
            wall, cpu = measure(pairs, people, each)
            total = people * each
            print(f"| {pairs:,} | {people} | {total:,} | {total / cpu:,.0f} | {total / wall:,.0f} | 200 |", flush=True)


if __name__ == "__main__":
    main()
