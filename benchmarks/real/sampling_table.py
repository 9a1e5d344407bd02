"""The table of `sampling.py`, and the bytes of weights that each engine reads for a step of decoding."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open

from real.result_files import Row, markdown
from rethink.models.gguf.header import read_header

NAMES = {"rethink": "rethink", "transformers": "`generate`", "llama": "llama.cpp", "vllm": "vLLM"}
BASE = "transformers"
EMBEDDINGS, HEADS = ("embed_tokens.weight", "token_embd.weight"), ("lm_head.weight", "output.weight")
"""The last two parts of the names of these tensors, in model folders and in GGUF files."""


def table(rows: Sequence[Row]) -> str:
    """Return the medians over rounds as a table in markdown: a line per batch size and engine."""
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((int(row["rows"]), row["engine"]), []).append(row)
    header = ["rows", "engine", "first tokens, s", "tokens/s", "times `generate`", "weights read, GB/s"]
    lines = [[*header, "peak memory, GiB", "rounds"]]
    for n_rows, engine in sorted(groups, key=lambda key: (key[0], list(NAMES).index(key[1]))):
        some = groups[n_rows, engine]
        rate = median(some, "tokens_per_s")
        base = groups.get((n_rows, BASE), [])
        ratio = f"{rate / median(base, 'tokens_per_s'):.2f}" if base else "-"
        read = median(some, "steps_per_s") * median(some, "bytes_per_step")
        cells = [str(n_rows), f"{NAMES[engine]} {some[-1]['version']}", f"{median(some, 'first_token_s'):.2f}"]
        cells += [f"{rate:.1f}", ratio, f"{read / 1e9:.1f}", f"{median(some, 'peak_bytes') / 2**30:.2f}"]
        lines.append([*cells, str(len(some))])
    return markdown(lines)


def median(rows: Sequence[Row], name: str) -> float:
    return statistics.median(float(row[name]) for row in rows)


def bytes_per_step(engine: str, folder: Path, gguf: Path | None, dtype: str) -> int:
    """Return the bytes of the weights that a step of decoding reads, whatever the number of rows.

    Of the embedding, a step reads a few rows, which do not count; but without another output layer, it is that too.
    llama.cpp reads the weights as the file has them. On a CPU, rethink's sampler keeps the output layer in float32."""
    if engine == "llama":
        assert gguf is not None
        layers, head = layers_and_head({tensor.name: tensor.n_bytes for tensor in read_header(gguf).tensors})
        return layers + head
    width = getattr(torch, dtype).itemsize
    layers, head = layers_and_head(n_weights(folder))
    return width * layers + (torch.float32.itemsize if engine == "rethink" else width) * head


def layers_and_head(sizes: Mapping[str, int]) -> tuple[int, int]:
    """Return the sum of the sizes of all tensors but embedding and output layer, and the size of the output layer."""
    layers = embedding = head = 0
    for name, size in sizes.items():
        kind = ".".join(name.split(".")[-2:])
        if kind in HEADS:
            head += size
        elif kind in EMBEDDINGS:
            embedding += size
        else:
            layers += size
    return layers, head or embedding


def n_weights(folder: Path) -> dict[str, int]:
    """Return the number of weights of each tensor of a model folder."""
    found: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                found[name] = prod(tensors.get_slice(name).get_shape())
    return found
