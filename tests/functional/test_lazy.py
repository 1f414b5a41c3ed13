"""The package is cheap to import and its names are what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bgpm import functional as F


@pytest.mark.slow
def test_torch_is_imported_at_the_first_use_of_a_name_and_not_before() -> None:
    code = (
        "import sys; from bgpm import functional as F; assert 'torch' not in sys.modules; "
        "F.preference_score; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in F.__all__:
        assert getattr(F, name).__doc__, name
        assert name in dir(F)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'balld'"):
        F.balld  # noqa: B018
