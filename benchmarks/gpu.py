"""What only a machine with a GPU can show: ``make gpu``, or ``python -m benchmarks.gpu``, writes reports/gpu.md.

Each check is a process of its own and has ten minutes; the report is written after each, and what cannot be run is
marked 'not run' with what is missing. Nothing is loaded from a network: the models have random weights, the pools
made-up words. The checks:

* ``tests``: the tests that are marked ``gpu``;
* ``training`` and ``scoring``: a Llama of two billion weights in bfloat16 with flash-attention, SDPA, eager attention:
  training steps with AdamW (forward, backward, update; all weights), and scoring as stage `embed` does it. MFU is
  model FLOP/s, 6 N a token in training and 2 N in scoring without attention's own, over the card's peak in dense
  bfloat16;
* ``loop``: one acquisition round, stage after stage, with a small decoder that is fine-tuned: LoRA, every weight, QLoRA
  (bitsandbytes), and every weight under ZeRO-3 (DeepSpeed).

``--small`` runs the same checks with tiny models on whatever there is, a CPU too: it tries the commands out, its
numbers mean nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks._table import peak_mib
from benchmarks.embedding import PAIRS, llama, made_up
from bgpm.backbones.embedding import embed, tokens
from bgpm.stage import read_params

ROOT = Path(__file__).resolve().parents[1]
REPORT = Path("reports") / "gpu.md"
LIMIT = 600  # seconds that one check has
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}  # FLOP/s, dense bfloat16
LARGE = {
    "vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 30,
    "num_attention_heads": 16, "num_key_value_heads": 8,
}  # fmt: skip
MIDDLE = LARGE | {"vocab_size": 1_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
TINY = {
    "vocab_size": 1_000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
ATTENTION = {"flash_attention_2": ("flash_attn",), "sdpa": (), "eager": ()}  # and the packages that each needs


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        needs: Packages without which it is not run.
        gpu: Whether it means nothing without a GPU, however small.
        work: Takes whether to be small; gives what was found, in words. None where ``command`` is run instead.
        command: Arguments of Python.
    """

    needs: tuple[str, ...] = ()
    gpu: bool = False
    work: Callable[[bool], str] | None = None
    command: tuple[str, ...] = ()

    def lacking(self) -> str:
        """What keeps it from being run; empty if nothing does."""
        missing = [name for name in self.needs if find_spec(name) is None]
        if self.gpu and not torch.cuda.is_available():
            missing.append("a GPU")
        return f"needs {' and '.join(missing)}" if missing else ""


def training(attention: str, small: bool) -> str:
    """Steps with AdamW on all weights."""
    size, shape = (TINY, (2, 64)) if small else (LARGE, (4, 1024))
    backbone = llama(attention, device(), torch.bfloat16, **size)
    model = backbone.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(4, 900, shape, generator=torch.Generator().manual_seed(0)).to(device())

    def step() -> None:
        model(input_ids=ids, use_cache=False).last_hidden_state[:, -1].float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return speed(ids.numel() / seconds(step), 6, sum(p.numel() for p in model.parameters()))


def scoring(attention: str, small: bool) -> str:
    """`embed` over pairs, tokens counted before prompts are shared."""
    backbone = llama(attention, device(), torch.bfloat16, **(TINY if small else LARGE))
    pairs = made_up(40, 30)[:8] if small else made_up(400, 300)[:PAIRS]
    texts = [text for pair in pairs for text in pair]
    out = np.empty((len(texts), backbone.layers, backbone.width), np.float32)
    size = sum(len(tokens(backbone, *text).ids) for text in texts)
    rate = size / seconds(lambda: embed(backbone, texts, out, batch_tokens=16_384))
    if not np.isfinite(out).all():
        raise SystemExit("a state is not finite")
    return speed(rate, 2, sum(p.numel() for p in backbone.model.parameters()))


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of a run after one to warm up."""

    def timed() -> float:
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    timed()
    return timed()


def speed(rate: float, flop: int, parameters: int) -> str:
    """Tokens a second, MFU and memory, in words."""
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else peak_mib() / 2**10
    peak = next((flops for known, flops in PEAK.items() if known in card()), None)
    mfu = f"MFU {flop * parameters * rate / peak:.1%}" if peak else "MFU unknown"
    return f"{parameters / 1e9:.3g}e9 weights: {rate:,.0f} tokens/s, {mfu}, {memory:.1f} GiB"


def card() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def loop(mode: str, small: bool, *, zero3: bool = False) -> str:
    """One acquisition round in a temporary project; the accuracy and the seconds of its trained models, in words."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_decoder(folder / "decoder", TINY if small else MIDDLE)
        write_rows(folder / "pool.jsonl", 24 if small else 120)
        write_rows(folder / "benchmark.jsonl", 8, subset="made up", labelled=False)
        (folder / "params.yaml").write_text(yaml.safe_dump(settings(mode, small, zero3)), encoding="utf-8")
        stages = ["check", "prepare", "embed pool", "embed benchmark", "features", "plan", "start", "label start"]
        stages += ["train start", "evaluate start", "fork entropy", "score entropy 0", "select entropy 0"]
        stages += ["label entropy 0", "train entropy 1", "evaluate entropy 1"]
        for stage in stages:
            command = [sys.executable, "-m", *f"stages.{stage}".split()]
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"stage {stage}: {last_line(done.stderr)}")
        summary = json.loads((folder / "data/entropy/round-1/model/summary.json").read_text(encoding="utf-8"))
        times = [json.loads((folder / f".timings/train-{part}.json").read_text()) for part in ("start", "entropy-1")]
        learnt = next(iter(summary.values()))["backbone"]
        spent = ", ".join(f"{one['seconds']:.0f} s" for one in times)
        return (
            f"two models trained in {spent}; {learnt['updates']} updates in the second, {learnt['updates_kept']} kept"
        )


def write_decoder(folder: Path, size: dict[str, int]) -> None:
    """A Llama of random weights and its tokeniser, as transformers loads them."""
    backbone = llama("sdpa", "cpu", torch.float32, **size)
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)


def write_rows(path: Path, prompts: int, *, labelled: bool = True, subset: str | None = None) -> None:
    """Pairs whose better response has more of the words w0 to w99: a decoder learns that from few labels."""
    rng = np.random.default_rng(len(path.name))

    def response(good: int) -> str:
        return " ".join(
            f"w{n}" for n in rng.permutation([*rng.integers(0, 100, good), *rng.integers(100, 900, 24 - good)])
        )

    with path.open("w", encoding="utf-8") as file:
        for _ in range(prompts):
            asked = " ".join(f"w{n}" for n in rng.integers(0, 900, 12))
            row: dict[str, Any] = {"prompt": asked, "chosen": response(16), "rejected": response(6)}
            if labelled:  # the label of a pool's pair says which; the order is drawn
                first = bool(rng.random() < 0.5)
                sides = (row["chosen"], row["rejected"]) if first else (row["rejected"], row["chosen"])
                row = {"prompt": asked, "response_a": sides[0], "response_b": sides[1], "label": int(first)}
            file.write(json.dumps(row | ({"subset": subset} if subset else {})) + "\n")


def settings(mode: str, small: bool, zero3: bool) -> dict[str, Any]:
    """params.yaml of the temporary project: the repository's, but for what a small decoder in one round needs."""
    params = dict(read_params(ROOT / "params.yaml"))
    params |= {"acquisition": "entropy", "baseline": "entropy", "seeds": [0], "rounds": [{"k": 0, "next": 1}]}
    params |= {"batch_size": 8 if small else 32, "start": {"labels": 8 if small else 32, "design": "random"}}
    params |= {"model": "bt", "features": {"blocks": ["states"], "states": {"layers": "last", "pca": None}}}
    params["pool"] = params["pool"] | {"path": "pool.jsonl"}
    params["benchmark"] = params["benchmark"] | {"path": "benchmark.jsonl"}
    params["backbone"] = params["backbone"] | {"path": "decoder", "device": device(), "sha256": None}
    params["training"] = params["training"] | {
        "mode": mode, "epochs": 1.0 if small else 3.0, "bf16": torch.cuda.is_available(), "checks": 2,
        "deepspeed": str(ROOT / "configs/deepspeed/zero3.json") if zero3 else None,
    }  # fmt: skip
    params["launcher"] = params["launcher"] | {"kind": "deepspeed" if zero3 else "none", "processes": 1}
    return params


CHECKS: dict[str, Check] = {
    "tests": Check(("pytest", "hypothesis"), True, command=("-m", "pytest", "-q", "-m", "gpu", "tests/backbones")),
    **{
        f"{name}, {attention}": Check(
            needs, attention == "flash_attention_2", lambda small, w=work, a=attention: w(a, small)
        )
        for name, work in (("training", training), ("scoring", scoring))
        for attention, needs in ATTENTION.items()
    },
    "loop, lora": Check(("accelerate", "peft"), work=lambda small: loop("lora", small)),
    "loop, full": Check(("accelerate",), work=lambda small: loop("full", small)),
    "loop, qlora": Check(("accelerate", "peft", "bitsandbytes"), True, lambda small: loop("qlora", small)),
    "loop, full, ZeRO-3": Check(("accelerate", "deepspeed"), work=lambda small: loop("full", small, zero3=True)),
}


def run_one(name: str, small: bool, limit: float = LIMIT) -> tuple[str, float]:
    """What came of a check, in words, and its seconds."""
    check = CHECKS[name]
    if lacking := check.lacking():
        return f"not run: {lacking}", 0.0
    own = ["-m", "benchmarks.gpu", "--only", name, *(["--small"] if small else [])]
    began = time.perf_counter()
    command = [sys.executable, *(check.command or own)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that a launcher started
            left = "a build that is cut off leaves ~/.cache/torch_extensions/*/*/lock, which the next one waits for"
            return f"failed: not ready after {limit:.0f} s; {left}: remove it", limit
    found = last_line(out) if process.returncode == 0 else f"failed: {last_line(err) or last_line(out)}"
    return found, time.perf_counter() - began


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].replace("|", "/")


def report(found: dict[str, tuple[str, float]], small: bool) -> str:
    """The table, with the card and the versions that made it."""
    versions = []
    for package in ("torch", "transformers", "flash-attn", "peft", "deepspeed", "bitsandbytes"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    lines = [
        "# On a GPU",
        "",
        f"Made by `make gpu`{' with tiny models, which only tries the commands out' if small else ''} on "
        f"{datetime.date.today().isoformat()}: {card()}, CUDA {torch.version.cuda or 'none'}, Python "
        f"{platform.python_version()}, {', '.join(versions)}. What each check is stands at the top of "
        "`benchmarks/gpu.py`.",
        "",
        "| check | what came of it | seconds |",
        "|---|---|---|",
        *(f"| {name} | {words} | {took:.0f} |" for name, (words, took) in found.items()),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", help=f"which of: {'; '.join(CHECKS)}. All by default")
    parser.add_argument("--small", action="store_true", help="tiny models, on a CPU too: tries the commands out")
    parser.add_argument("--only", choices=sorted(CHECKS), help="one check in this process")
    parser.add_argument("--output", type=Path, default=REPORT)
    given = parser.parse_args(arguments)
    if given.only:
        work = CHECKS[given.only].work
        assert work is not None, "a check that is a command of its own"
        print(work(given.small))
        return
    if unknown := set(given.checks) - set(CHECKS):
        parser.error(f"no check {', '.join(sorted(unknown))}; known: {'; '.join(CHECKS)}")
    if not (given.small or torch.cuda.is_available()):
        sys.exit("error: torch sees no GPU here; --small --output FILE tries the commands out on a CPU")
    found: dict[str, tuple[str, float]] = {}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    for name in given.checks or CHECKS:
        found[name] = run_one(name, given.small)
        print(f"{name}: {found[name][0]} ({found[name][1]:.0f} s)", flush=True)
        given.output.write_text(report(found, given.small), encoding="utf-8")


if __name__ == "__main__":
    main()
