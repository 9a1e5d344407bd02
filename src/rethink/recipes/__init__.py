"""The recipes that ship with the package, and files of recipes. The comments at the beginning of each shipped one list the
commands that run it."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from rethink.credentials import has_key
from rethink.errors import UserError

FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """Return the names of the recipes that ship with the package, in order."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def find(recipe: str) -> Path:
    """Return the file of a recipe: a path, or the name of a shipped one ("demo-grpo"). Raise UserError if there is none."""
    path = Path(recipe)
    if path.is_file():
        return path
    if path.parent == Path() and (FOLDER / f"{recipe}.toml").is_file():
        return FOLDER / f"{recipe}.toml"
    if path.is_dir():
        raise UserError(f"{recipe} is a folder, not a recipe" + _in_folder(path))
    if Path(f"{recipe}.toml").is_file():
        raise UserError(f"there is no recipe {recipe}; did you mean {recipe}.toml?")
    names = shipped()
    near = _similar(recipe.removesuffix(".toml"), names)
    if near and path.parent == Path():
        raise UserError(f"there is no recipe {recipe}; did you mean {' or '.join(near)}?")
    raise UserError(f"there is no recipe file {recipe}; recipes of the package: {', '.join(names)}")


def read(recipe: str) -> dict[str, Any]:
    """Return the tables of a recipe. Raise UserError if there is none, or if it is not TOML."""
    file = find(recipe)
    if file.suffix.lower() in (".json", ".yaml", ".yml", ".py"):
        raise UserError(f"{file} is not a recipe: recipes are TOML files, with tables such as [training] and lr = 1e-6")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as err:
        raise UserError(f"cannot read the recipe {file}: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise UserError(f"{file} is not valid TOML: byte {err.start + 1} is not UTF-8") from err
    except tomllib.TOMLDecodeError as err:
        raise UserError(f"{file} is not valid TOML: {err}{_toml_hint(file, str(err))}") from err


def _similar(recipe: str, names: list[str]) -> list[str]:
    """Return the recipes with this name in another spelling, or with similar names, at most three."""
    plain: dict[str, str] = {}
    for name in names:
        plain[_plain(name)] = name
    wanted = _plain(recipe)
    if wanted in plain:
        return [plain[wanted]]
    inside = [key for key in plain if wanted and wanted in key]
    near = inside[:3] or difflib.get_close_matches(wanted, plain, n=1)
    return [plain[key] for key in near]


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _in_folder(folder: Path) -> str:
    found = sorted(folder.glob("*.toml"))
    return f"; did you mean {found[0]}?" if found else ""


def _toml_hint(file: Path, message: str) -> str:
    """Return the line of a syntax error, and what TOML wants where that is plain."""
    place = message.rpartition("(at line ")[2].partition(",")[0]
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    if not place.isdigit() or not 0 < int(place) <= len(lines):
        return ""
    line = lines[int(place) - 1].strip()
    value = line.partition("=")[2].strip()
    wants_quotes = message.startswith("Invalid value") and value and value[0].isalpha()
    better = f"; write {line.partition('=')[0].strip()} = {_literal(value)}" if wants_quotes else ""
    shown = line if not has_key(line) else f"{line.partition('=')[0].strip()} = [key]"
    return f": {shown[:80]}{better if shown == line else ''}"


def _literal(value: str) -> str:
    lower = value.lower()
    return lower if lower in ("true", "false", "inf", "nan") else f'"{value}"'
