"""Annotators' names: one spelling for each annotator.

The same name can be written in several ways that nobody can tell apart: with a composed or a combining accent, with a
joiner or a blank of no width, with another kind of blank. People are counted by name (`annotators_per_pair`), so a name
is brought into one form: Unicode's composed form (NFC, https://unicode.org/reports/tr15/), no invisible characters, one
blank between words.
"""

from __future__ import annotations

import unicodedata

ANONYMOUS = "anonymous"
# Selectors of variants, fillers and the grapheme joiner: what has no ink though its category says nothing of that.
INKLESS = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0} | {
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
}


def spelling(name: str) -> str:
    """A name as it counts; empty where nothing of it can be seen."""
    words = "".join(character for character in name if _has_ink(character) or character.isspace()).split()
    return unicodedata.normalize("NFC", " ".join(words))


def annotator_name(name: object) -> str:
    """An annotator's name as a file has it, which may be a number or nothing."""
    return (spelling(str(name)) if name is not None else "") or ANONYMOUS


def _has_ink(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cf") and ord(character) not in INKLESS
