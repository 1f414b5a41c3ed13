"""Pools under a tiny decoder and a tiny encoder, made once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tasks import Workspace


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A decoder; features are the last layer's states at the last token."""
    return Workspace(tmp_path_factory.mktemp("qwen"), "qwen")


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """An encoder; features are every layer's mean states, reduced, with counts of the answer's words and marks."""
    return Workspace(tmp_path_factory.mktemp("bert"), "bert", layers="all", pca=12, text_statistics=True)


@pytest.fixture(autouse=True)
def random_numbers_of_others() -> Iterator[None]:
    """Training draws from the global generator, as libraries do; tests around it do not notice."""
    with torch.random.fork_rng(devices=[]):
        yield
