"""The report's pages: Python computes what they say, the Jinja2 templates of this folder lay it out.

A template escapes every value that it writes, except `Markup`, which only our own code makes, of what nobody else
wrote:

- a chart (`bgpm.reporting.charts`), which escapes each name that it draws;
- a power of ten (`bgpm.reporting.page`), made of a number;
- the style sheet beside the templates, light and dark, in the colours of Okabe and Ito.

A name that a template asks for and nobody gave is an error.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

CSS = "\n" + (files(__name__) / "style.css").read_text(encoding="utf-8")

ENVIRONMENT = Environment(
    loader=PackageLoader("bgpm.reporting"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.globals |= {
    "style": Markup(CSS),
    "style_hash": base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode(),
}


def render(template: str, **said: Any) -> str:
    """A page as HTML.

    Args:
        template: Name of a file of this folder.
        said: What its names stand for. jinja2.UndefinedError where one of them is missing.
    """
    return ENVIRONMENT.get_template(template).render(said)
