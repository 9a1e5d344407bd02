"""What several ranks exchange in an update with a KL term: `python benchmarks/scale.py [--config FILE] [--rank R]`.

Computes the bytes from the sizes of a model, and seconds from assumed speeds of links. With `--count`, trains a small
random model on two ranks of this machine's CPU and counts the bytes of its collectives, beside those of the formulas:
`PYTHONPATH=tests python benchmarks/scale.py --count`.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from rethink.distributed import connect, shutdown
from rethink.models.forward.embedding import decoder_layers
from rethink.models.language_model import LanguageModel
from rethink.objectives import PolicyGradient, Update
from rethink.plan.memory import root_parameters, trained_parameters
from rethink.plan.meta_model import build_meta_model, read_config
from rethink.settings import Training
from rethink.training.fsdp.engine import rounds_of
from rethink.training.fsdp.shard_model import build
from rethink.training.trainer import Trainer

GB = 1e9

NETWORK, NVLINK, GPUS_PER_NODE, SHARE = 50 * GB, 450 * GB, 8, 0.7
"""Assumed: bytes per second of each GPU's network card (400 Gb/s) and of NVLink in one direction (H100), GPUs of a node,
and the share of these rates that a collective reaches."""

RATE = 400e12
"""Assumed: operations per second of a GPU in training, 40% of an H100's in bfloat16."""

COLLECTIVES = {
    **{"all_gather_into_tensor": "gathered", "all_gather_single": "gathered"},
    **{"reduce_scatter_tensor": "reduced", "reduce_scatter_single": "reduced"},
}
"""Those that FSDP2 calls in torch 2.9 and in 2.13."""

FORWARD, BACKWARD, REFERENCE, REDUCED = "gathered, forward", "gathered, backward", "gathered, reference", "reduced"


def exchanged(model: LanguageModel, itemsize: int, n_micro: int = 1) -> dict[str, int]:
    """Return the bytes of whole tensors that all ranks gather, and of gradients that they sum, by stage of a micro-batch.

    Layers are gathered in the dtype of their products, of this size, and again in the backward pass. Embedding, last norm
    and head are gathered in float32 and stay until the end of the backward pass. Gradients are summed in float32."""
    layers = itemsize * sum(p.numel() for layer in decoder_layers(model.module) for p in layer.parameters())
    root = 4 * sum(p.numel() for p in root_parameters(model))
    gradients = 4 * sum(p.numel() for p in trained_parameters(model))
    of_one = {FORWARD: layers + root, BACKWARD: layers, REFERENCE: layers + root, REDUCED: gradients}
    return {name: n_micro * n for name, n in of_one.items()}


def seconds(n_bytes: float, n_gpus: int) -> float:
    """Return the time to gather (or to sum and scatter) tensors of so many bytes: each node gets the other nodes' shares
    over its network cards, while each GPU gets those of all others over NVLink."""
    n_nodes = math.ceil(n_gpus / GPUS_PER_NODE)
    own = min(n_gpus, GPUS_PER_NODE)
    over_network = n_bytes * (1 - 1 / n_nodes) / (own * NETWORK)
    over_nvlink = n_bytes * (1 - 1 / own) / NVLINK
    return max(over_network, over_nvlink) / SHARE


def counted(name: str, found: Counter[str]) -> Callable[..., Any]:
    """Return the collective of this name, which also adds the bytes of the whole tensor to `found`."""
    collective, what = getattr(dist, name), COLLECTIVES[name]

    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
        found[what] += max(x.nbytes for x in tensors)
        return collective(*args, **kwargs)

    return call


def count(rank: int, folder: Path, port: int) -> None:
    """On one of two ranks: train, and print the bytes of the collectives beside the formulas'."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    from rethink.models.load import load_model
    from support.samples import mixed_part  # among the tests

    ranks = connect(1800)
    load = lambda: load_model(str(folder))  # noqa: E731
    settings = Training(micro_batch_tokens=20, autocast="bfloat16")
    engine, meta_model = build(ranks, load, settings, torch.device("cpu"), load)
    trainer = Trainer(engine.model, settings, 9, load, engine)
    mixed = mixed_part(load().module)
    part = PolicyGradient(mixed.samples, mixed.advantages, kl_coef=0.1)
    assert trainer.reference_weights is not None
    rounds = []
    found: Counter[str] = Counter()

    def kept_rounds(packs: Any, size: int) -> Any:
        rounds.extend(rounds_of(packs, size))
        return rounds_of(packs, size)

    with ExitStack() as patched:
        patched.enter_context(patch("rethink.training.fsdp.engine.rounds_of", kept_rounds))
        for name in COLLECTIVES:
            if hasattr(dist, name):
                patched.enter_context(patch.object(dist, name, counted(name, found)))
        trainer.apply(Update("count", (part,), on_policy=False))
    if rank == 0:
        wanted = exchanged(meta_model, 2, len(rounds))
        gathered = wanted[FORWARD] + wanted[BACKWARD] + wanted[REFERENCE]
        print(f"two ranks, {len(rounds)} micro-batches on each; counted beside computed, in bytes")
        print(
            f"gathered {found['gathered']:,} {gathered:,}   reduced {found[REDUCED]:,} {wanted[REDUCED]:,}", flush=True
        )
    shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--config", type=Path, default=Path("tests/support/configs/llama-70b.json"))
    parser.add_argument("--rank", type=int, default=0, help="rank of LoRA adapters")
    parser.add_argument("--gpus", type=int, default=48, help="GPUs of the trainer")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of a micro-batch")
    parser.add_argument("--count", action="store_true", help="count on two ranks of a small model")
    given = parser.parse_args()
    if given.count:
        from support import random_models

        with tempfile.TemporaryDirectory() as folder:
            saved = random_models.save_random_model(Path(folder) / "model", "qwen3", intermediate_size=32)
            context = get_context("fork")
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            processes = [context.Process(target=count, args=(rank, saved, port)) for rank in range(2)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
        sys.exit(any(process.exitcode for process in processes))
    model = build_meta_model(read_config("", given.config), "bfloat16" if given.rank else "float32", given.rank)
    n = sum(p.numel() for p in model.module.parameters())
    total_s = 0.0
    print(
        f"{n / 1e9:.2f} billion parameters, {given.gpus} GPUs; per micro-batch of {given.tokens:,} tokens on each GPU"
    )
    stages = exchanged(model, 2)
    for name, n_bytes in stages.items():
        total_s += seconds(n_bytes, given.gpus)
        print(f"{name:22} {n_bytes / GB:8.1f} GB {seconds(n_bytes, given.gpus):7.2f} s")
    # 2 per parameter and token forward, 4 backward (2 with adapters), 2 to recompute activations, 2 for the reference
    operations = (8 if given.rank else 10) * n * given.tokens
    print(
        f"{'all':22} {sum(stages.values()) / GB:8.1f} GB {total_s:7.2f} s, beside {operations / RATE:.1f} s of computing"
    )
    whole = 4 * sum(p.numel() for p in model.module.parameters()) if not given.rank else 2 * n
    print(
        f"publish: gather {whole / GB:.0f} GB in {seconds(whole, given.gpus):.1f} s; send {2 * n / GB:.0f} GB in bfloat16"
    )
    print(f"from one GPU in {2 * n / (SHARE * NETWORK):.1f} s")


if __name__ == "__main__":
    main()
