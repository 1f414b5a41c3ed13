"""Would the tests notice? One-character errors in the maths, each made on a copy, each expected to fail a test.

``python -m benchmarks.mutate`` prints a table and exits with 1 when an error survives. The repository itself is
never changed. For each error the tests of its own module run first, then the rest of tests/functional. An error that
keeps the tests from being imported is noticed by none of them: it counts as one that survives.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("bgpm/functional")
TESTS = Path("tests/functional")
NOT_IMPORTED = "**nobody**: the tests cannot be imported"

MUTATIONS: list[tuple[str, str, str]] = [
    ("skew.py", "v_j[..., 1::2] - v_i[..., 1::2] * v_j", "v_j[..., 1::2] + v_i[..., 1::2] * v_j"),
    ("skew.py", "torch.stack((odd, -even)", "torch.stack((odd, +even)"),
    ("skew.py", ") + var_x * var_y", ") - var_x * var_y"),
    ("skew.py", "mean_j[..., 1::2], var_j[..., 1::2]", "mean_j[..., 1::2], var_j[..., 0::2]"),
    ("skew.py", "-_skew(mean_i, gates)\n    first", "+_skew(mean_i, gates)\n    first"),
    ("skew.py", "+ 2 * _quadratic(a, cov_ij, b)", "- 2 * _quadratic(a, cov_ij, b)"),
    ("skew.py", ".sum((-2, -1)) - (skew_j * skew_i.mT)", ".sum((-2, -1)) + (skew_j * skew_i.mT)"),
    ("skew.py", "(trace[..., 0::2] + trace", "(trace[..., 0::2] - trace"),
    ("skew.py", "k_ii * k_jj - k_ij.square()", "k_ii * k_jj + k_ij.square()"),
    ("skew.py", "+ 2 * k_ij * (ua * b)", "+ 1 * k_ij * (ua * b)"),
    ("kernel.py", "phi_i[..., None, :] + b[..., :, None]", "phi_i[..., None, :] - b[..., :, None]"),
    ("kernel.py", "((self._b @ left) * second)", "((self._a @ left) * second)"),
    ("kernel.py", "own + 2 * cross", "own - 2 * cross"),
    ("kernel.py", "torch.stack((a, b), dim=1)", "torch.stack((a, a), dim=1)"),
    ("kernel.py", "* (g - (dual * self.a).T", "* (g + (dual * self.a).T"),
    ("kernel.py", "prior - known", "prior + known"),
    ("kernel.py", "phi_j[self._index[1][part]]", "phi_j[self._index[0][part]]"),
    ("kernel.py", "+ b[:, row, None] * phi_j", "+ b[:, row, None] * phi_i"),
    ("quadrature.py", "_GRID = 97", "_GRID = 57"),
    ("quadrature.py", "_WIDE = 1.25", "_WIDE = 9.25"),
    ("quadrature.py", "(_WIDE, 32)", "(_WIDE, 12)"),
    ("quadrature.py", "(_PROBIT**2 + sd.square()).sqrt())[:, 0]", "(_PROBIT**3 + sd.square()).sqrt())[:, 0]"),
    ("quadrature.py", "low) * _phi(mu / (_PROBIT**2", "low) * _phi(mu / (_PROBIT**3"),
    ("quadrature.py", "torch.log1p(rho) - torch", "torch.log1p(rho) + torch"),
    ("quadrature.py", "clean, noisy)) / tau**2", "clean, noisy)) / tau**1"),
    ("quadrature.py", "rising = mu + 0.5", "rising = mu - 0.5"),
    ("quadrature.py", "(shift - step)", "(shift + step)"),
    ("quadrature.py", "torch.where(mean > 0, 1 - below", "torch.where(mean < 0, 1 - below"),
    ("quadrature.py", "torch.exp(-0.5 * ((x - m)", "torch.exp(-0.6 * ((x - m)"),
    ("quadrature.py", "leading = 0.5 * sd", "leading = 0.6 * sd"),
    ("quadrature.py", "return e + (1 - 2 * e) * p", "return e + (1 - 3 * e) * p"),
    ("quadrature.py", "/ (e * (1 - e) + a)", "/ (e * (1 + e) + a)"),
    ("quadrature.py", "(1 - 2 * e) ** 2 * p", "(1 - 2 * e) ** 1 * p"),
    ("quadrature.py", "p * (shift - rho)", "p * (shift + rho)"),
    ("quadrature.py", "- low - (high - low) * _phi(x", "- low - (high + low) * _phi(x"),
    ("quadrature.py", "known = low + (high", "known = low - (high"),
    ("quadrature.py", "return floor + vecdot", "return floor - vecdot"),
    ("quadrature.py", "(1 - p, -shift)", "(1 - p, +shift)"),
    ("quadrature.py", "(0.5 - u / 6", "(0.5 - u / 5"),
    ("quadrature.py", "(p + shift > 1", "(p - shift > 1"),
    ("information.py", "(1 / self._weight[j] + left", "(2 / self._weight[j] + left"),
    ("information.py", "block = block - self._rows", "block = block + self._rows"),
    ("information.py", "now - self._age[rows]", "now + self._age[rows]"),
    ("information.py", "0.5 * torch.log1p(values)", "0.6 * torch.log1p(values)"),
    ("information.py", "[part] - self._rows[part, :now].square()", "[part] + self._rows[part, :now].square()"),
    ("information.py", "(current + slack >= best)", "(current - slack >= best)"),
    ("information.py", "key = -torch.arange(n", "key = +torch.arange(n"),
    ("information.py", "for j in columns.tolist()], dim=1)", "for j in columns.tolist()], dim=0)"),
    ("likelihood.py", "return x - logsigmoid(x - y)", "return x - logsigmoid(x + y)"),
    ("likelihood.py", "exp() * slope.square()", "exp() + slope.square()"),
    ("likelihood.py", "math.log1p(-error_rate)", "math.log1p(+error_rate)"),
    ("likelihood.py", "logsigmoid((-score - lead)", "logsigmoid((-score + lead)"),
    ("likelihood.py", "twice = 2 * width", "twice = 3 * width"),
    ("likelihood.py", "(2 * label - 1) * margin", "(2 * label + 1) * margin"),
    ("divergence.py", "(torch.expm1(log_ratio) - log_ratio)", "(torch.expm1(log_ratio) + log_ratio)"),
    ("calibration.py", "clamp(max=bins - 1)", "clamp(max=bins - 2)"),
    ("calibration.py", "torch.where(p > 0.5, y", "torch.where(p < 0.5, y"),
    ("_checks.py", "bad = tensor < 0", "bad = tensor > 0"),
    ("_checks.py", "tensor.shape[-1] % 2:", "tensor.shape[-1] % 1:"),
]  # fmt: skip


def is_one_character(old: str, new: str) -> bool:
    """Whether one character is replaced, inserted or removed."""
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    longer, shorter = (old, new) if len(old) > len(new) else (new, old)
    if len(old) == len(new):
        return old[head + 1 :] == new[head + 1 :] and old != new
    return longer[head + 1 :] == shorter[head:]


def broken(text: str, old: str, new: str) -> str:
    """The module with this error in it; a ValueError when the line is not there once."""
    if text.count(old) != 1 or not is_one_character(old, new):
        raise ValueError(f"expected one place with {old!r} and one character of difference to {new!r}")
    return text.replace(old, new)


def first_failure(copy: Path, module: str) -> str | None:
    """Name of the first test that fails in this copy, None when all pass; `NOT_IMPORTED` when none could say."""
    own = copy / TESTS / f"test_{Path(module).stem.lstrip('_')}.py"
    rest = sorted(path for path in (copy / TESTS).glob("test_*.py") if path != own)
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    imported = True
    for files in ([own] if own.exists() else [], rest):
        if not files:
            continue
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *map(str, files)]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            continue
        found = re.search(r"^(?:FAILED|ERROR) \S*?::(\w+)", done.stdout, re.M)
        if found:
            return found.group(1)
        imported = False
    return None if imported else NOT_IMPORTED


def change(old: str, new: str) -> str:
    """The error as a table shows it: the line's part up to the change and after."""
    return f"`{old.splitlines()[0]}` to `{new.splitlines()[0]}`"


def main() -> int:
    for module, old, new in MUTATIONS:
        broken((ROOT / PACKAGE / module).read_text(encoding="utf-8"), old, new)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "bgpm", copy / "bgpm", ignore=skip)
        shutil.copytree(ROOT / TESTS, copy / TESTS, ignore=skip)
        shutil.copy2(ROOT / "pyproject.toml", copy)
        if failure := first_failure(copy, "__init__.py"):
            print(f"the tests fail without any error: {failure}", file=sys.stderr)
            return 1
        print("One-character errors made on purpose in bgpm/functional. Made by `make mutate`.\n")
        print("| module | error | noticed by | s |\n|---|---|---|---|")
        noticed = 0
        for module, old, new in MUTATIONS:
            path = copy / PACKAGE / module
            text = path.read_text(encoding="utf-8")
            path.write_text(broken(text, old, new), encoding="utf-8")
            began = time.perf_counter()
            failure = first_failure(copy, module)
            path.write_text(text, encoding="utf-8")
            noticed += failure not in (None, NOT_IMPORTED)
            print(
                f"| {module} | {change(old, new)} | {failure or '**nobody**'} | {time.perf_counter() - began:.0f} |",
                flush=True,
            )
    print(f"\n{noticed} of {len(MUTATIONS)} errors noticed.")
    return 0 if noticed == len(MUTATIONS) else 1


if __name__ == "__main__":
    sys.exit(main())
