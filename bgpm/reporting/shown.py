"""Plain data that the templates of the pages lay out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bgpm.evaluation.arm import Arm
from bgpm.reporting.charts import STYLES


class Number(NamedTuple):
    """The number to read first, the two lines below it, and the classes it is set in."""

    text: str
    below: tuple[str, str]
    tone: str = ""


class TableRow(NamedTuple):
    """A row of a table: its cells, of which the first names it, the class of its name, and whether it stands out."""

    cells: Sequence[str]
    style: str = ""
    strong: bool = False


@dataclass(frozen=True)
class ShownArm:
    """An arm on the page.

    Attributes:
        title: Its name as a reader sees it.
        style: Its class of the style sheet.
        rows: Of its table.
    """

    title: str
    style: str
    rows: Sequence[TableRow] = ()


def styled(arms: Iterable[Arm]) -> list[tuple[Arm, str]]:
    """Each arm with its class of the style sheet."""
    return list(zip(arms, STYLES, strict=False))


def shown(arms: Iterable[Arm], cells: Callable[[Arm], list[list[str]]]) -> list[ShownArm]:
    """The arms that have a table, with its rows.

    Args:
        cells: Those of each row of an arm's table; none where it has none.
    """
    return [
        ShownArm(arm.title, style, [TableRow(some) for some in found])
        for arm, style in styled(arms)
        if (found := cells(arm))
    ]
