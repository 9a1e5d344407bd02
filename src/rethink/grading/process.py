"""How processes for grading start: without the files of the current folder, and without the environment's secrets."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

_KEPT = frozenset(
    re.findall(
        r"\w+",
        """PATH HOME USER LOGNAME LANG LANGUAGE TZ TMPDIR LD_LIBRARY_PATH DYLD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX
        PYTHONHOME XDG_CACHE_HOME HF_HOME HF_HUB_CACHE HF_HUB_OFFLINE TRANSFORMERS_OFFLINE TORCH_HOME NLTK_DATA""",
    )
)
_SET = {
    "PYTHONHASHSEED": "0",  # some puzzles are built from sets of words
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "utf-8",
    "OMP_NUM_THREADS": "1",  # several processes run at once, and threads do not survive a fork
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_ROOT = str(Path(__file__).resolve().parents[2])


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


_STARTED_IN = _current_folder()


def bare_environment() -> dict[str, str]:
    """Return the few environment variables that a process for grading gets. No keys or tokens are among them."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith("LC_")}
    return {**kept, **_SET}


def isolated(module: str, *arguments: Any) -> tuple[str, ...]:
    """Return the command that calls `main` of our module. It cannot import files of the current folder, nor of the folder
    of the program that runs.
    """
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    hidden = {os.path.realpath(p) for p in (_STARTED_IN, _current_folder(), os.path.dirname(program or "/"))}
    more = [p for p in sys.path if os.path.isabs(p) and os.path.realpath(p) not in hidden]
    return _command(f"[{_ROOT!r}, *sys.path, *{more!r}]", module, arguments)


def with_users_path(module: str, *arguments: Any) -> tuple[str, ...]:
    """Return the command that calls `main` of our module. It can import whatever this process can."""
    return _command(repr(sys.path), module, arguments)


def _command(path: str, module: str, arguments: tuple[Any, ...]) -> tuple[str, ...]:
    start = f"import sys; sys.path[:] = {path}; from {module} import main; main(*sys.argv[1:])"
    return (sys.executable, "-P", "-c", start, *map(str, arguments))
