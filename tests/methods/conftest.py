"""Fixtures for short runs of random models."""

from __future__ import annotations

from support.runs import make, problems

__all__ = ["make", "problems"]
