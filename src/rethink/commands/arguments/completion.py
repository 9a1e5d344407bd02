"""What the shell suggests for arguments: the names that the package knows. Where none fits, shells suggest files."""

from __future__ import annotations

from collections.abc import Iterable

from rethink.recipes import shipped


def recipe_names(incomplete: str) -> list[str]:
    """Return the shipped recipes that begin like this.

    >>> recipe_names("thinktwice-q")
    ['thinktwice-qwen3-4b']
    """
    return _beginning(incomplete, shipped())


def models(incomplete: str) -> list[str]:
    """Return the models of the package that begin like this."""
    return _beginning(incomplete, ("tiny", "tiny-signs", "tiny-shapes"))


def suites(incomplete: str) -> list[str]:
    """Return the benchmarks and generators that begin like this."""
    from rethink.problems.source import GENERATORS
    from rethink.problems.suites import GROUPS, SUITES

    return _beginning(incomplete, (*GROUPS, *SUITES, *GENERATORS))


def methods(incomplete: str) -> list[str]:
    """Return the methods that begin like this."""
    from rethink.methods import METHODS

    return _beginning(incomplete, METHODS)


def demo_methods(incomplete: str) -> list[str]:
    """Return the methods of `rethink demo` that begin like this: those with a demo recipe."""
    from rethink.methods import METHODS

    with_demo = [name for name in METHODS if f"demo-{name.replace('_', '-')}" in shipped()]
    return _beginning(incomplete, with_demo)


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
