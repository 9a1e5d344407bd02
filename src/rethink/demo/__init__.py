"""The tiny model that ships with the package, and the recipes that use it."""

from pathlib import Path

FOLDER = Path(__file__).parent
TINY_MODEL = FOLDER / "model"
