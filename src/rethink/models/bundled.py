"""The tiny models that ship with the package."""

from pathlib import Path

FOLDER = Path(__file__).parent
TINY_MODEL = FOLDER / "tiny"
MODELS = {"tiny": TINY_MODEL, "tiny-talk": FOLDER / "tiny_talk"}
"""Folders by the names that `model.path` accepts. tiny solves and refines; tiny-talk also reflects, retries and merges."""


def resolve(path: str) -> str:
    """Return the folder of a shipped model by its name; return any other path unchanged."""
    return str(MODELS.get(path, path))
