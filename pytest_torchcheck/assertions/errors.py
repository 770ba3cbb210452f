"""What a helper raises beside a plain AssertionError."""

from __future__ import annotations


class VacuousCheckError(AssertionError):
    """A helper had nothing to see, or the path it names did not run: passing would have proved nothing."""


class InconclusiveTimingError(AssertionError):
    """A timing was too noisy to decide either way: more rounds or a quieter machine are needed."""
