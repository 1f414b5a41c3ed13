"""examples/tour.ipynb runs from its first cell to its last and shows what it says it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "tour.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    programs = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(programs) >= 5
    assert [cell for cell in cells if cell.get("outputs")] == []  # they would go stale
    names: dict[str, Any] = {}
    for number, program in enumerate(programs):
        exec(compile(program, f"{NOTEBOOK.name}, program {number}", "exec"), names)
    assert all(curve[-1] > curve[0] + 0.02 for curve in names["curves"].values())
    assert max(abs(names["shown"]["bt"])) < 0.1
    assert min(names["shown"]["gpm"]) > 1
