"""Pieces of the page: sections and tables as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def block(title: str, lead: str, body: str) -> str:
    """A section of the page; title, lead and body are HTML."""
    intro = f'<p class="soft">{lead}</p>\n' if lead else ""
    return f"<section>\n<h2>{title}</h2>\n{intro}{body}\n</section>"


def table(head: Sequence[str], rows: Iterable[str]) -> str:
    """A table that scrolls by itself; head and rows are HTML."""
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    whole = f"<table><thead><tr>{cells}</tr></thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"
    return f'<div class="scroll" tabindex="0">{whole}</div>'


def row(name: str, cells: Iterable[str], *, style: str = "", strong: bool = False) -> str:
    """A row of a table: its name and its cells, HTML; a cell is a number or a short text."""
    mark = ' class="asked"' if strong else ""
    return f'<tr{mark}><th scope="row" class="{style}">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
