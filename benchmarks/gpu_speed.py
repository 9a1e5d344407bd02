"""Sampler and trainer on one GPU, with random models of 0.6 and 4 billion parameters: stages of `benchmarks/gpu.py`.

Log-probs are compared with a float32 pass, from which they may be at most twice as far as transformers' own pass in the
sampler's dtype. Decoding is compared with the memory bandwidth (the least bytes that must be read, over the rate of a copy)
and with transformers' `generate`; training with the rate of a large matrix product; memory with what a plan states.
"""

from __future__ import annotations

import copy
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from closeness import full_pass, gap, gaps, insist
from plan_measured import planned_peak, samples, update_of
from rethink.models import make_tiny
from rethink.models.chat import Chat
from rethink.models.language_model import LanguageModel
from rethink.models.load import choose_forward_pass
from rethink.plan.memory import MemorySettings
from rethink.policies.local import LocalPolicy
from rethink.prompts import Prompts
from rethink.settings import Training
from rethink.types import Group, Prompt, Sampling
from roofline import LARGE, copy_rate, large_product_rate, summary
from workloads import STAGES, Bench, Timed, Workload, config, finish, matrix_entries, problems


@dataclass(frozen=True)
class Plan:
    """A model's shape and its workload; `micro_batches` are the sizes to try, in tokens."""

    workload: Workload
    kv_heads: int
    n_tokens: int = 151_936
    micro_batches: tuple[int, ...] = (4096, 16_384)
    cache_gib: int = 24

    def shape(self) -> Qwen3Config:
        shape = config(self.workload, self.n_tokens)
        shape.num_key_value_heads = self.kv_heads
        shape.max_position_embeddings = 4096
        return shape


ROWS = 1, 32, 256

PLANS = (
    Plan(Workload("0.6B", 1024, 3072, 28, 16, 128, prompt_tokens=256, max_tokens=256), 8),
    Plan(Workload("4B", 2560, 9728, 36, 32, 128, prompt_tokens=256, max_tokens=256), 8, micro_batches=(1024, 4096)),
)
TINY = (
    Plan(
        Workload("tiny", 48, 80, 3, 4, 16, prompt_tokens=37, max_tokens=11, n_problems=3, n_samples=4),
        2,
        211,
        (64, 128),
    ),
    Plan(
        Workload("tiny too", 64, 96, 2, 4, 16, prompt_tokens=13, max_tokens=17, n_problems=2, n_samples=4),
        2,
        307,
        (64,),
    ),
)
SMALL = replace(TINY[0], workload=replace(TINY[0].workload, name="small", max_tokens=23))


def tokenizer(n_tokens: int) -> PreTrainedTokenizerFast:
    """Return the demo's tokenizer, with numbers up to the end of this vocabulary: every reply has a text."""
    words = [*make_tiny.MARKS, *make_tiny.WORDS]
    words += map(str, range(n_tokens - len(words)))
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", pad_token="<pad>", chat_template=make_tiny.TEMPLATE
    )


def build(plan: Plan, device: torch.device, spread: float = 0.0) -> LanguageModel:
    """Return a model of random float32 weights. With a spread they are larger, and those of norms differ from 1."""
    torch.manual_seed(0)
    shape = plan.shape()
    shape.initializer_range = spread or shape.initializer_range
    with torch.device(device):
        module = AutoModelForCausalLM.from_config(shape, dtype=torch.float32, attn_implementation="sdpa").eval()
        for name, parameter in module.named_parameters():
            if spread and "norm" in name:
                parameter.data.uniform_(0.5, 1.5)
    words = tokenizer(plan.n_tokens)
    return choose_forward_pass(
        LanguageModel(module, Chat(words, frozenset({words.eos_token_id})), path=plan.workload.name)
    )


# Correctness


def check_small(device: torch.device, *, graphs: bool) -> dict[str, Any]:
    """Check float32 against float64; the prompts are long enough to be shared."""
    bench = Bench(SMALL.workload, build(SMALL, device, spread=0.2))
    bench.policy.dtype = bench.trainer.dtype = torch.float32
    bench.policy.cuda_graphs = graphs
    samples = [s for group in draw(bench.policy, asks(bench)) for s in group]
    double = copy.deepcopy(bench.model.module).double()
    exact = [full_pass(double, s) for s in samples]
    # Norms and rotary positions of transformers are always float32.
    name = "small with graphs" if graphs else "small"
    return insist(name, gaps(bench, samples, exact), {"mean": 1e-4, "max": 2e-3})


def check_graphs(device: torch.device) -> dict[str, Any]:
    """Check log-probs without and with CUDA graphs. If graphs fail, the rest is measured without them."""
    found = {"without": check_small(device, graphs=False)}
    try:
        return {**found, "with": check_small(device, graphs=True)}
    except (RuntimeError, SystemExit) as error:
        print(f"CUDA graphs failed: {error}", file=sys.stderr)
        return {**found, "failed": str(error)}


def check_large(bench: Bench, half: Any, groups: Sequence[Group]) -> dict[str, Any]:
    """Check a few replies against float32, next to the result of transformers in the sampler's dtype."""
    samples = [group[0] for group in groups[:4]]
    exact = [full_pass(bench.model.module, s) for s in samples]
    theirs = gap([full_pass(half, s) for s in samples], exact)
    limit = {key: max(1e-3, 2 * value) for key, value in theirs.items()}
    name = bench.workload.name
    print(f"{name}: transformers in {half.dtype}: {theirs['mean']:.2g} (mean), {theirs['max']:.2g} (max)")
    return {"theirs": theirs, **insist(name, gaps(bench, samples, exact), limit)}


# Speed


def asks(bench: Bench) -> list[Prompt]:
    return Prompts().ask(problems(bench.workload, 0))


def draw(policy: LocalPolicy, prompts: Sequence[Prompt], n: int = 4, cap: int | None = None) -> list[Group]:
    return policy.sample(prompts, n, Sampling(max_tokens=cap or policy.sampling.max_tokens))


def timed(work: Callable[[], Any], device: torch.device, n: int = 2) -> tuple[float, Any]:
    """Return the median of seconds, after one call to warm up, and the last result."""
    seconds = []
    for _ in range(n + 1):
        finish(device)
        start = time.perf_counter()
        result = work()
        finish(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), result


def decoding(bench: Bench, bytes_per_s: float) -> tuple[dict[str, float], list[Group]]:
    """Return seconds and tokens after the first ones, which come from the prefill."""
    device, n, how = bench.model.device, bench.workload.n_samples, "with" if bench.policy.cuda_graphs else "without"
    whole_s, groups = timed(lambda: draw(bench.policy, asks(bench), n), device)
    first_s, _ = timed(lambda: draw(bench.policy, asks(bench), n, cap=1), device)
    decode_s = whole_s - first_s
    n_tokens = sum(len(s.ids) - 1 for group in groups for s in group)
    least_s = least_bytes(bench, groups) / bytes_per_s
    print(
        f"{bench.workload.name} {how} graphs: {n_tokens / decode_s:,.0f} tokens/s decoded in {decode_s:.2f} s after "
        f"{first_s:.2f} s for the prompts; {least_s / decode_s:.0%} of the bandwidth"
    )
    found = {"whole_s": whole_s, "prompts_s": first_s, "n_tokens": n_tokens, "bandwidth_share": least_s / decode_s}
    return found, groups


def least_bytes(bench: Bench, groups: Sequence[Group]) -> float:
    """Return the bytes that decoding must read: in each step all matrices, the keys and values of each prompt once, and
    those of each reply."""
    shape, width = bench.model.config, bench.policy.dtype.itemsize
    steps = [[len(s.ids) - 1 for s in group] for group in groups]
    weights = sum(matrix_entries(shape)) * max(map(max, steps))
    prompts = sum(max(some) * len(group[0].prompt_ids) for some, group in zip(steps, groups, strict=True))
    own = sum(n * (n + 1) // 2 for some in steps for n in some)
    per_token = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    return float(width * (weights + per_token * (prompts + own)))


def against_generate(bench: Bench, half: Any, ours_s: float, n_ours: int) -> dict[str, float]:
    """Time `generate` of transformers with the same prompts, number of samples and max_tokens."""
    ids = torch.tensor([bench.model.chat.encode(p.messages) for p in asks(bench)], device=half.device)
    settings = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "eos_token_id": 1}
    seconds, out = timed(
        lambda: half.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            num_return_sequences=bench.workload.n_samples,
            max_new_tokens=bench.workload.max_tokens,
            **settings,
        ),
        half.device,
        n=1,
    )
    n_tokens = int((out[:, ids.shape[1] :] != 0).sum())
    ratio = n_ours / ours_s / (n_tokens / seconds)
    print(
        f"{bench.workload.name}: generate {n_tokens / seconds:,.0f} tokens/s, ours {n_ours / ours_s:,.0f}: {ratio:.2f}"
    )
    return {"seconds": seconds, "tokens_per_s": n_tokens / seconds, "ratio": ratio}


def training(bench: Bench, rate: float) -> dict[str, Any]:
    """Time ThinkTwice, after one batch to warm up."""
    bench.batch(bench.think_twice())
    updates: list[Timed] = bench.batch(bench.think_twice())
    found = {u.phase: summary([u], {"sample_s": rate, "update_s": rate}) for u in updates}
    for phase, numbers in found.items():
        parts = "  ".join(f"{s[:-2]} {numbers[s]:.2f}" for s in STAGES)
        share = numbers["shares"]["update_s"]
        print(f"{bench.workload.name} {phase}: {numbers['total_s']:.2f} s ({parts}); training {share:.0%} of the rate")
    return found


def sampling_stage(plan: Plan, device: torch.device, *, graphs: bool) -> dict[str, Any]:
    """Measure decoding with few and with all rows, with and without graphs, against the bandwidth and `generate`."""
    model = build(plan, device)
    bench = Bench(plan.workload, model, cache_bytes=plan.cache_gib * 2**30)
    rate = copy_rate(8 * LARGE if device.type == "cuda" else LARGE, device)
    found: dict[str, Any] = {"bytes_per_s": rate}
    for rows in ROWS:
        n_problems, n_samples = min(rows, plan.workload.n_problems), max(1, rows // plan.workload.n_problems)
        bench.workload = replace(plan.workload, n_problems=n_problems, n_samples=n_samples)
        for bench.policy.cuda_graphs in (False, True) if graphs else (False,):
            decoded, groups = decoding(bench, rate)
            found[f"{rows} rows {'with' if bench.policy.cuda_graphs else 'without'} graphs"] = decoded
    half = copy.deepcopy(model.module).to(bench.policy.dtype)
    n_tokens = sum(len(s.ids) for group in groups for s in group)
    found |= attempt("generate", lambda: against_generate(bench, half, decoded["whole_s"], n_tokens))
    return found | attempt("log_probs", lambda: check_large(bench, half, groups))


def attempt(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result under its name; or what failed, so that it costs no other result of the stage."""
    try:
        return {name: work()}
    except (Exception, SystemExit) as error:
        print(f"{name} failed: {error}", file=sys.stderr)
        return {"failed": f"{name}: {error}"}


def training_stage(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Measure updates of ThinkTwice with several sizes of micro-batches, and the memory of an update against the plan."""
    found: dict[str, Any] = {}
    for tokens in plan.micro_batches:
        try:
            found[f"{tokens} tokens"] = _training(plan, device, tokens)
        except torch.OutOfMemoryError:
            print(f"{plan.workload.name}: micro-batches of {tokens} tokens do not fit")
            found[f"{tokens} tokens"] = {"left_out": "memory"}
    return found


def _training(plan: Plan, device: torch.device, micro_batch_tokens: int) -> dict[str, Any]:
    model = build(plan, device)
    bench = Bench(plan.workload, model, cache_bytes=plan.cache_gib * 2**30, micro_batch_tokens=micro_batch_tokens)
    rate = large_product_rate(bench.trainer.dtype, device, 8192 if device.type == "cuda" else 512)
    print(f"{plan.workload.name}: micro-batches of {micro_batch_tokens} tokens, products {rate / 1e12:.3g} TFLOP/s")
    found = {"product_rate": rate, **training(bench, rate)}
    return found | attempt("memory", lambda: against_plan(plan, bench, micro_batch_tokens))


def against_plan(plan: Plan, bench: Bench, micro_batch_tokens: int) -> dict[str, float]:
    """Measure the peak of an update on replies of full length, and compare it with what `rethink plan` would state."""
    work, device = plan.workload, bench.model.device
    some = samples(8, work.n_samples, work.prompt_tokens, work.max_tokens, plan.n_tokens)
    memory = MemorySettings(micro_batch_tokens=micro_batch_tokens, chunk_tokens=Training.chunk_tokens)
    planned = planned_peak(plan.shape(), memory, update_of(some)).n_bytes
    bench.policy.release_memory()
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    bench.trainer.apply(update_of(some, bench.trainer.version))
    measured = float(torch.cuda.max_memory_allocated(device)) if is_gpu else math.nan
    print(f"{work.name}: an update takes {measured / 2**30:.1f} GiB, the plan says {planned / 2**30:.1f}")
    return {"measured_bytes": measured, "planned_bytes": planned}
