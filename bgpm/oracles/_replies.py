"""Parse a judge's reply: one letter or one JSON object, with the markup that models put around it.

A reply is read where it holds the annotation and nothing else: ``A``, ``**A**``, ``(A)``, ``[[A]]``, ``"A"``, ``A.``,
``Answer: A``, ``{"better": "A"}``, a fenced block or ``<answer>...</answer>`` with any of these, and any of these after
a closed ``<think>...</think>``. Prose is not interpreted: "A is worse than B" names A first and means B.
"""

from __future__ import annotations

import json
import math
import re

from bgpm.oracles._chat import Reply

LETTERS = {"A": 1.0, "B": 0.0, "T": 0.5}
WORDS = {"a": 1.0, "b": 0.0, "tie": 0.5}
EXPECTED = 'one letter (A, B, or T for a tie), or a JSON object such as {"better": "A"} or {"probability_a": 0.7}'
DRESS = " \t\r\n\"'`*_()[]{}<>\u2018\u2019\u201c\u201d\u00ab\u00bb"
LEAD = re.compile(
    r"(the )?((final|my) )?(answer|verdict|choice|winner|better|preference|preferred)( is)?\s*:",
    re.ASCII | re.IGNORECASE,
)
THINK = re.compile(r"<(/?)(?:think(?:ing)?|thoughts?|reasoning)>", re.IGNORECASE)
TAGGED = re.compile(r"<([a-z_]+)>(.*)</\1>", re.IGNORECASE | re.DOTALL)
LONGEST = 1000  # characters after the thoughts; who says more has not answered as asked


def read_reply(reply: Reply, *, soft: bool) -> float | None:
    """Probability that the response shown first is better; None where the reply is not what was asked for.

    Args:
        soft: Take the probability of A among the letters in the place of the letter; a tie counts half.
    """
    text = None if reply.cut else _after_thoughts(reply.text)
    if text is None or len(text := _unfenced(text)) > LONGEST:
        return None
    letter = _letter(text)
    if soft:
        return None if letter is None else _soft(letter, reply)
    return _object(text) if letter is None else LETTERS[letter]


def _after_thoughts(text: str) -> str | None:
    """What stands after the last closed thought; None where a thought was not ended."""
    depth, end = 0, 0
    for tag in THINK.finditer(text):
        depth = max(depth - 1, 0) if tag[1] else depth + 1
        end = tag.end()
    return None if depth else text[end:].strip()


def _unfenced(text: str) -> str:
    """The content of a fenced block, or between two tags, that is all of a text."""
    if tagged := TAGGED.fullmatch(text):
        text = tagged[2].strip()
    if len(text) > 6 and text.startswith("```") and text.endswith("```"):
        inside = text[3:-3]
        language, line_end, rest = inside.partition("\n")
        return (rest if line_end and language.strip().isalnum() else inside).strip()
    return text


def _letter(text: str) -> str | None:
    """The one letter of a text, without the markup around it."""
    bare = text.replace("*", "").replace("`", "").strip(DRESS)
    if lead := LEAD.match(bare):
        bare = bare[lead.end() :]
    bare = bare.strip(DRESS).removesuffix(".").removesuffix("\u3002").removesuffix("!").strip(DRESS)
    bare = bare.removeprefix("\\boxed{").upper()
    return "T" if bare == "TIE" else bare if bare in LETTERS else None


def _object(text: str) -> float | None:
    """What a JSON object says."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or len({"better", "probability_a"} & said.keys()) != 1:
        return None
    if "better" in said:
        return WORDS.get(said["better"].lower()) if isinstance(said["better"], str) else None
    p = said["probability_a"]
    return float(p) if isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1 else None


def _soft(letter: str, reply: Reply) -> float | None:
    """The probability of A among the letters where the answer stands: after all thoughts, so the last such token."""
    place = next((t for t in reversed(reply.tokens or ()) if _bare_token(t[0]) == letter), None)
    if place is None:
        return None
    mass = dict.fromkeys(LETTERS, 0.0)
    for token, logprob in place[1].items():
        if (name := _bare_token(token)) in mass:
            mass[name] += math.exp(logprob)
    total = sum(mass.values())
    return sum(LETTERS[name] * p for name, p in mass.items()) / total if total > 0 else None


def _bare_token(token: str) -> str:
    return token.strip(DRESS).upper()
