"""Products of few rows with plain matrices and with packed ones, on a CPU: `python benchmarks/packed.py`.

Prints the milliseconds of each, as medians. Each product reads another matrix, so that it comes from memory and not from a
cache. Sizes are those of Qwen2.5-0.5B and SmolLM2-135M.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from rethink.models.forward.ops import product
from rethink.models.forward.packed import pack

SIZES = ((9728, 896), (896, 4864), (1152, 896), (3072, 576), (576, 1536))
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 1024)
MOST_BYTES = 3e8
ROUNDS = 5


@torch.inference_mode()
def main() -> None:
    print(f"{torch.get_num_threads()} threads; milliseconds of plain and packed, and packed over plain")
    for out, width in SIZES:
        plain = [torch.randn(out, width) for _ in range(int(MOST_BYTES / (4 * out * width)))]
        packed = [pack(weight) for weight in plain]
        for n_rows in ROWS:
            x = torch.randn(n_rows, width)
            before, after = milliseconds(x, plain), milliseconds(x, packed)
            print(f"{out} x {width}, {n_rows} rows: {before:.2f} {after:.2f} {after / before:.2f}", flush=True)


def milliseconds(x: Tensor, weights: Sequence[Tensor]) -> float:
    """Return the median time of a product, over rounds with each matrix once; a first round is not counted."""
    found: list[float] = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        for weight in weights:
            product(x, weight)
        found.append((time.perf_counter() - start) / len(weights) * 1000)
    return statistics.median(found[1:])


if __name__ == "__main__":
    main()
