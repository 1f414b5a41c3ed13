"""Tables as CSV that a spreadsheet may open: no cell of them is a formula, and every cell can be read back.

A spreadsheet runs a cell that begins with ``=``, ``+``, ``-`` or ``@``, with the full-width forms of these, or with a
tab or a line end before them; ``=HYPERLINK(...)`` sends what stands beside it anywhere. An apostrophe in front makes it
text (OWASP, "CSV injection"). Names of sections, annotators and pairs come from data, so every table that we write goes
through here.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)
INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")


def guarded(text: str) -> str:
    """A cell that no spreadsheet runs: with an apostrophe in front where it would begin a formula."""
    return "'" + text if _runs(text) else text


def bare(cell: str) -> str:
    """A cell as it was before `guarded`."""
    return cell[1:] if cell.startswith("'") and _runs(cell) else cell


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as CSV, a line feed after each row; every text in it is guarded, but one that is a plain number."""
    return "".join(_line([_cell(cell) for cell in row]) for row in [columns, *rows])


def csv_rows(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Rows of what `csv_text` wrote, by column.

    Raises:
        ValueError: If a row has more or fewer cells than the header.
    """
    reader = csv.DictReader(lines)
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num}: expected {len(reader.fieldnames or ())} cells, as in the header")
        yield {bare(name): bare(cell) for name, cell in row.items()}


def _line(cells: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)  # else a CR inside a cell would not be quoted
    return out.getvalue().removesuffix("\r\n") + "\n"


def _cell(cell: object) -> object:
    return guarded(cell) if isinstance(cell, str) and not NUMBER.fullmatch(cell) else cell


def _runs(text: str) -> bool:
    """Whether a text, without the apostrophes in front, may be taken for a formula."""
    rest = text.lstrip("'")
    if rest[:1] in ("\t", "\r", "\n"):
        return True
    first = next((character for character in rest if unicodedata.category(character) not in INVISIBLE), "")
    return unicodedata.normalize("NFKC", first)[:1] in ("=", "+", "-", "@")
