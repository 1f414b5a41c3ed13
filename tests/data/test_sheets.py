"""CSV: no cell is a formula, whatever a name holds, and all come back as they were."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpm.data.sheets import bare, csv_rows, csv_text, guarded

FORMULAS = [
    '=HYPERLINK("http://attacker.invalid")', "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\nx",
    " =1", "\u200b=1", "\ufeff=1", "＝1", "＋1", "－1", "＠A1", "﹦1", "'=1", "''＝1", "\x00=1",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_run_gets_an_apostrophe_and_comes_back(text: str) -> None:
    assert guarded(text) == "'" + text
    assert bare(guarded(text)) == text


@pytest.mark.parametrize("text", ["", "chat", "'quoted'", "a=b", "é", "1+1", "(-1)", "#ref"])
def test_what_no_spreadsheet_runs_stays_as_it_is(text: str) -> None:
    assert guarded(text) == bare(text) == text


@given(st.text(alphabet="'=+-@\t\r\n ＝－a1\u200b"))
def test_every_text_comes_back(text: str) -> None:
    assert bare(guarded(text)) == text


def test_a_table_has_no_formula_in_header_or_cells_and_its_numbers_stay_numbers() -> None:
    rows = [["=1+1", "-0.5", -0.25, "-1e-07", 3, ""], ["@x", "-inf", float("nan"), "+2.", -4, "a\rb"]]
    text = csv_text(["section", "=a", "b", "c", "d", "e"], rows)
    header, *cells = csv.reader(io.StringIO(text, newline=""))
    assert header == ["section", "'=a", "b", "c", "d", "e"]
    assert cells == [["'=1+1", "-0.5", "-0.25", "-1e-07", "3", ""], ["'@x", "-inf", "nan", "+2.", "-4", "a\rb"]]
    assert [row["=a"] for row in csv_rows(io.StringIO(text, newline=""))] == ["-0.5", "-inf"]
    assert [row["section"] for row in csv_rows(io.StringIO(text, newline=""))] == ["=1+1", "@x"]


def test_a_row_of_too_few_or_too_many_cells_is_refused() -> None:
    for line in ("1\n", "1,2,3\n"):
        with pytest.raises(ValueError, match="line 2: expected 2 cells"):
            list(csv_rows(io.StringIO("a,b\n" + line, newline="")))
