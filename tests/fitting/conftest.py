"""The planted problems of `tests/problems.py` as a fixture."""

from problems import problem

__all__ = ["problem"]
