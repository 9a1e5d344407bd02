"""Where a model is: the tiny models that ship with the package, folders, and names on the hub."""

from pathlib import Path

from rethink.errors import UserError

FOLDER = Path(__file__).parent
TINY_MODEL = FOLDER / "tiny"
MODELS = {"tiny": TINY_MODEL, "tiny-talk": FOLDER / "tiny_talk"}
"""Folders by the names that `model.path` accepts. tiny solves and refines; tiny-talk also reflects, retries and merges."""


def resolve(path: str) -> str:
    """Return the folder of a shipped model by its name; return a folder or a hub name unchanged.

    Raise UserError for a folder that does not exist, and for the folder of a run, which has models in its checkpoints."""
    if path in MODELS:
        return str(MODELS[path])
    is_folder = path.startswith((".", "/", "~")) or path.count("/") > 1  # a hub name has at most one slash
    if is_folder and not Path(path).is_dir():
        raise UserError(f"there is no model folder {path}")
    checkpoints = sorted((Path(path) / "checkpoints").glob("[0-9]*"))
    if checkpoints and not (Path(path) / "config.json").is_file():
        raise UserError(f"{path} is a run folder; name one of its checkpoints, such as {checkpoints[-1]}")
    return path
