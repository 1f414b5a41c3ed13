"""What `make docs` adds to the pages: tables of every setting, root files as pages, and files that pages link to.

MkDocs calls the functions whose names begin with ``on_`` (see `hooks` in mkdocs.yml). Pages link to files of the
repository as they stand there, ``../reports/LOG.md``; on the site pictures are copied and other files shown as text.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from bgpm.config import FAMILIES, Params
from bgpm.features.blocks import Block
from bgpm.registry import Component, Settings, kinds, member
from bgpm.stage import read_params

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
PICTURES = (".png", ".svg", ".jpg")


def sentences(settings: type[Settings]) -> dict[str, str]:
    """What each setting of a class means: the entries under ``Attributes:`` of its docstring and its bases'."""
    found: dict[str, str] = {}
    for base in (base for base in reversed(settings.__mro__) if issubclass(base, Settings)):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, _, entries = text.partition("Attributes:\n")
        entries = re.split(r"\n(?=\S)", entries)[0]
        for names, meaning in re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8,}.*)*)", entries, re.M):
            found |= {name.strip(): " ".join(meaning.split()) for name in names.split(",")}
    return found


def tables() -> Iterator[tuple[str, type[Settings]]]:
    """Each place in params.yaml that holds settings, with their class, in the order of the file."""
    yield "", Params
    for name, field in Params.model_fields.items():
        if name in FAMILIES:
            for kind in kinds(FAMILIES[name][0]):
                component = member(FAMILIES[name][0], kind)
                yield f"{name}.{kind}", component
                yield from _nested(f"{name}.{kind}", component)
        elif inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
            yield name, field.annotation
            yield from _nested(name, field.annotation)
            if name == "features":
                yield from ((f"features.{kind}", member(Block, kind)) for kind in kinds(Block))


def _nested(place: str, settings: type[Settings]) -> Iterator[tuple[str, type[Settings]]]:
    for name, field in settings.model_fields.items():
        for inner in _classes(field.annotation):
            yield f"{place}.{name}", inner
            yield from _nested(f"{place}.{name}", inner)


def _classes(annotation: Any) -> Iterator[type[Settings]]:
    if inspect.isclass(annotation) and issubclass(annotation, Settings):
        yield annotation
    for part in get_args(annotation):
        yield from _classes(part)


def settings_page() -> str:
    """Markdown: one table for each place; a default is what params.yaml says, or else the class."""
    parts = []
    params = read_params(ROOT / "params.yaml")
    for place, settings in tables():
        said = sentences(settings)
        names = [name for name in settings.model_fields if name != "kind" or not issubclass(settings, Component)]
        title = f"`{place}`" if place else "Top level"
        summary = inspect.cleandoc(settings.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        lines = [f"## {title}", "", summary.replace("``", "`"), ""]
        if names:
            lines += ["| setting | values | default | meaning |", "|---|---|---|---|"]
        for name in names:
            field = settings.model_fields[name]
            cells = (
                f"`{name}`",
                _values(field),
                _default(params, place, name, field),
                said.get(name, "").replace("``", "`"),
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _default(params: Any, place: str, name: str, field: Any) -> str:
    value = field.default
    for key in [*place.split("."), name] if place else [name]:
        params = params.get(key, PydanticUndefined) if isinstance(params, dict) else PydanticUndefined
    if params is not PydanticUndefined:
        value = params
    if value is PydanticUndefined:
        return "none"
    if isinstance(value, Settings | dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value)):
        return "see params.yaml"
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def _values(field: Any) -> str:
    bounds = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if hasattr(limit, name)
    ]
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin is Literal:
        return " | ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_type(part) for part in arguments)
    if origin is not None:
        return f"{origin.__name__} of {', '.join(_type(part) for part in arguments)}"
    return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def on_files(files: Any, *, config: Any) -> Any:
    """Add the root files that are pages, and every file of the repository that a page links to."""
    from mkdocs.structure.files import File  # tests read the tables without it

    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=_from_root((ROOT / source).read_text(encoding="utf-8"))))
    linked = {
        path
        for file in list(files.documentation_pages())
        for path in _outside(file.content_string)
        if (ROOT / path).is_file()
    }
    for path in sorted(linked):
        files.append(File.generated(config, _place(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Fill in the tables of settings, and turn links to the repository into links to the site's copies."""
    if page.file.src_uri == "settings.md":
        markdown = markdown.replace("<!-- settings -->", settings_page())
    return LINK.sub(_link, markdown)


def _outside(markdown: str) -> set[str]:
    return {
        link[2].removeprefix("../").rstrip("/")
        for link in LINK.findall(markdown)
        if link[2].startswith("../") and link[2].removeprefix("../") not in PAGES.values()
    }


def _link(found: re.Match[str]) -> str:
    mark, text, target, anchor = found[1], found[2], found[3], found[4] or ""
    if not target.startswith("../"):
        return found[0]
    path = target.removeprefix("../").rstrip("/")
    if path in PAGES.values():
        page = next(page for page, source in PAGES.items() if source == path)
        return f"{mark}[{text}]({page}{anchor})"
    if (ROOT / path).is_dir():
        return f"{text} (`{path}/`)"
    return f"{mark}[{text}]({_place(path)})"


def _place(path: str) -> str:
    return f"repository/{path}" + ("" if path.endswith(PICTURES) else ".txt")


def _from_root(markdown: str) -> str:
    """A file of the root as if it stood in docs/."""

    def turn(found: re.Match[str]) -> str:
        target = found[3].removeprefix("docs/") if found[3].startswith("docs/") else f"../{found[3]}"
        return f"{found[1]}[{found[2]}]({target}{found[4] or ''})"

    return LINK.sub(turn, markdown)
