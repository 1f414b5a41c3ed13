"""Every benchmark, one after another."""

from __future__ import annotations

import subprocess
import sys

for module in ("pipeline", "functional", "selection"):
    print(f"\n## benchmarks.{module}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{module}"], check=True)
