"""One word a thing: no two public classes of the library share a name, and texts say the words of the glossary."""

from __future__ import annotations

import ast
import re
import tokenize
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "bgpm").rglob("*.py"))


def defined(path: Path) -> list[str]:
    """Public classes, and public names of types, at the top of a module."""
    found = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            found += [name] if name[0].isupper() and name != name.upper() else []
    return [name for name in found if not name.startswith("_")]


def test_no_two_public_classes_share_a_name():
    places = defaultdict(list)
    for path in LIBRARY:
        for name in defined(path):
            places[name].append(path.relative_to(ROOT).as_posix())
    assert len(places) > 100
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


# What a reader would have to guess, and what to say instead.
FORBIDDEN = {
    r"\b(?:buy|buys|buying|purchases?)\b": "acquire, acquisition",
    r"\bbought\b(?!:)": "acquired",
    r"\bsecond prize\b|\bwhich prize\b": "the labelled pool; the goal",
    r"\bearn(?:s|ed)? (?:its|their) place\b": "selected by cross-validated likelihood",
    r"\bfarewell\b": "interpreter shutdown",
    r"\bmore patiently\b|\bpatient with\b": "retried with exponential backoff",
    r"\bin (?:every|another|the) dress\b": "format",
    r"\bplanted cycles?\b": "synthetic cyclic preferences",
    r"\btold from noise\b.*\bsav|\bsaved that could\b": "no significant saving",
    r"\bknows the errors\b": "how well uncertainty predicts errors",
    r"\bknobs?\b": "setting",
    r"\bfooled\b": "say what goes wrong",
    r"\bfree blocks?\b": "cyclic blocks",
}
TEXTS = [
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "glossary.md"),  # it names the old words
    *(
        ROOT / name
        for name in ("CONTRIBUTING.md", "params.yaml", "study/params.yaml", "dvc.yaml", "study/pipeline.yaml")
    ),
    *sorted((ROOT / "bgpm/annotate/page").glob("*.*")),
    *sorted((ROOT / "bgpm").rglob("*.j2")),
]


def prose(path: Path) -> list[tuple[int, str]]:
    """Lines of a text; of Python its comments and its strings of more than one word, help and messages among them."""
    if path.suffix != ".py":
        return list(enumerate(path.read_text(encoding="utf-8").splitlines(), 1))
    with path.open("rb") as file:
        said = [
            (token.start[0], token.string)
            for token in tokenize.tokenize(file.readline)
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string)
        ]
    return [(at + n, line) for at, text in said for n, line in enumerate(text.splitlines())]


def test_texts_and_docstrings_say_the_words_of_the_glossary():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r}: say {better}"
        for path in [*LIBRARY, *sorted((ROOT / "stages").glob("*.py")), *TEXTS]
        for number, line in prose(path)
        for pattern, better in FORBIDDEN.items()
        if (match := re.search(pattern, line, re.IGNORECASE))
    ]
    assert found == []


def test_prose_is_found_in_comments_docstrings_and_messages_and_names_are_no_prose(tmp_path):
    path = tmp_path / "some.py"
    path.write_text('"""One two.\n\nThree."""\nbought = 1  # four\nraise X(f"five six {bought}", "seven")\n')
    assert [number for number, _ in prose(path)] == [1, 2, 3, 4, 5]
    assert not any("bought = 1" in line or "seven" in line for _, line in prose(path))
