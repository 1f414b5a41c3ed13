"""Pairs that go to other tools and come back, for every test of that."""

from __future__ import annotations

from bgpm.annotations.store import Annotation

AT = "2026-11-24T12:00:00+00:00"
KNOWN = {"p", "q", "r"}
QUESTIONS = [
    {"pair_id": name, "prompt": f"say {name}", "response_a": f"{name}, one", "response_b": "2"} for name in "pqr"
]


def facts(annotations: list[Annotation]) -> set[tuple[object, ...]]:
    """What has to be the same when an annotation comes back."""
    return {(a.pair_id, a.label, a.strength, a.flags, a.annotator, a.at, a.seconds) for a in annotations}
