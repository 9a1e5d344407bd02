"""The tiny models that ship with the package, and the recipes that use them."""

from pathlib import Path

FOLDER = Path(__file__).parent
TINY_MODEL = FOLDER / "model"
MODELS = {"tiny": TINY_MODEL, "tiny-talk": FOLDER / "talk"}
"""By the names that `model.path` takes. tiny solves and refines; tiny-talk also reflects, retries and merges."""
