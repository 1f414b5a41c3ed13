"""The exceptions of bgpm.

Each class is also the builtin a caller would expect, so ``except ValueError`` keeps working.
A message says what is wrong, what was expected, what was found, and how to mend it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # categories of characters that control or cannot be written


class BgpmError(Exception):
    """Base of every expected error; a stage prints it as one line and exits with 1."""


class ArgumentError(BgpmError, TypeError):
    """An argument is not of the type that was asked for."""


class ConfigError(BgpmError, ValueError):
    """A parameter is unknown, mistyped or out of range; names the file and the key."""


class DataError(BgpmError, ValueError):
    """Input data cannot be used; names the file and, where there is one, the line."""


class LabelCodingError(DataError):
    """A label is none of its coding: what the file's labels mean is not known, so no row of it can be trusted."""


class MissingLabelError(DataError, LookupError):
    """A label is needed (by the oracle or for the held-out set) and there is none."""


class LabelsPendingError(BgpmError, LookupError):
    """A person or service has not answered yet; the work so far is kept.

    Attributes:
        pairs: Names of all pairs that people are asked for, answered or not; empty where no person is.
    """

    def __init__(self, message: str, pairs: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.pairs = tuple(pairs)


class WeightsError(BgpmError, OSError):
    """Backbone weights are missing, unreadable or not the ones that were promised."""


class LaunchError(BgpmError, RuntimeError):
    """A process that a launcher started failed; its own error was printed by that process."""


class ShapeError(BgpmError, ValueError):
    """Tensor shapes do not fit together, or an embedding has an odd dimension."""


class NumericsError(BgpmError, ArithmeticError):
    """A number that must be finite is not, or an optimiser did not converge."""


class StateError(BgpmError, RuntimeError):
    """A file written by an earlier stage is absent, damaged or of another version."""


def visible(text: str) -> str:
    """A text in which every character that moves the cursor, colours or turns the line is shown, not sent.

    What services, files and people write gets into messages; a terminal would obey ESC and its like. Line ends stay.
    """
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in UNSEEN else c.encode("unicode_escape").decode() for c in text
    )
