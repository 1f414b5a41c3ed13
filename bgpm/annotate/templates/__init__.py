"""The campaign page: `bgpm.annotate.overview` computes what it says, the Jinja2 template of this folder lays it out.

The environment is that of the report's pages (`bgpm.reporting.templates`), whose macros the template shares: every
value is escaped that is no `Markup`, and here the chart alone is; a name that nobody gave is an error.
"""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, PackageLoader

from bgpm.reporting.templates import ENVIRONMENT as REPORT

ENVIRONMENT = REPORT.overlay(loader=ChoiceLoader([PackageLoader("bgpm.annotate"), PackageLoader("bgpm.reporting")]))


def render(**said: Any) -> str:
    """The campaign page as HTML.

    Args:
        said: What the names of the template stand for. jinja2.UndefinedError where one of them is missing.
    """
    return ENVIRONMENT.get_template("campaign.html.j2").render(said)
