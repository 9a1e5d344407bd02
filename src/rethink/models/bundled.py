"""Where a model is: the tiny models that ship with the package, folders, GGUF files, and names on the hub."""

from collections.abc import Callable
from pathlib import Path

from rethink.errors import UserError
from rethink.models.checkpoint_files import newest
from rethink.models.gguf.locate import check_name, is_gguf

FOLDER = Path(__file__).parent
TINY_MODEL = FOLDER / "tiny"
MODELS = {"tiny": TINY_MODEL, "tiny-signs": FOLDER / "tiny_signs", "tiny-shapes": FOLDER / "tiny_shapes"}
"""Folders by the names that `model.path` accepts. tiny is for countdown; tiny-signs, for signs, also checks and merges;
tiny-shapes sees images, for shapes."""


def resolve(path: str, warn: Callable[[str], None] = lambda _: None) -> str:
    """Return the folder of a shipped model by its name, and the newest valid checkpoint of a run by its folder.

    Return any other folder, file or hub name unchanged. `warn` gets a message for each damaged checkpoint, which is
    skipped. Raise UserError for a folder that does not exist, and for a run without a valid checkpoint."""
    if path in MODELS:
        return str(MODELS[path])
    if is_gguf(path):
        check_name(path)
        return path
    is_folder = path.startswith((".", "/", "~")) or path.count("/") > 1  # a hub name has at most one slash
    if Path(path).is_file():
        raise UserError(f"{path} is a file, but not a GGUF file; name the folder that it is in")
    if is_folder and not Path(path).is_dir():
        raise UserError(f"there is no model folder {path}")
    return str(_newest_checkpoint(Path(path), warn)) if is_run(Path(path)) else path


def is_run(folder: Path) -> bool:
    """Return whether this is the folder of a training run."""
    return (folder / "checkpoints").is_dir() and not (folder / "config.json").exists()


def _newest_checkpoint(run: Path, warn: Callable[[str], None]) -> Path:
    damaged: list[str] = []
    found = newest(run / "checkpoints", damaged.append, model_only=True)
    if found is None:
        why = f": {damaged[0].partition(';')[0]}" if damaged else ""
        raise UserError(f"the run {run} has no whole checkpoint to use as a model{why}")
    for message in damaged:
        warn(message)
    return found
