"""The sections of a recipe: what each setting is called, means, may be, and is by default.

Whoever needs a section takes it whole, so that no default is written twice. The bounds in the annotations are checked when
a recipe is read (`rethink.recipe`), not where a section is made in code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, AllowInfNan, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rethink.types import Phase, Sampling

Finite = Annotated[PositiveFloat, AllowInfNan(False)]
Momentum = Annotated[float, Ge(0), Lt(1)]
Threshold = Annotated[float, Gt(0), Le(1)]


def _variable(name: str) -> str:
    """Return the name of an environment variable as it is. Raises ValueError for what cannot be one, without repeating it:
    it may be a key."""
    if name and not name.isidentifier():
        raise ValueError("must be the name of an environment variable, not the key itself")
    return name


@dataclass(frozen=True)
class ModelSource:
    """Which model. `path` is a folder, a hub name, or "tiny" or "tiny-talk", models in the package; with `random` the
    weights are drawn from the run's seed. `template` replaces the tokenizer's chat template ("plain", "chatml" or a
    file)."""

    path: str = "tiny"
    random: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    template: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al., arXiv 2106.09685): with a `rank` above 0, W stays as it is and
    W + `alpha` / `rank` * B A takes its place, where only A [rank, in] and B [out, rank] are trained, without dropout.

    `targets` names the linear layers that get one, by the ends of their names; the output layer never does.
    """

    rank: NonNegativeInt = 0
    alpha: Finite = 32.0
    targets: str | tuple[str, ...] = "all-linear"


@dataclass(frozen=True)
class Sampler:
    """What samples: our own engine, or in training vLLM (extra `vllm`, docs/vllm.md).

    Prompts of more than `max_prompt_tokens` are skipped and counted, or refused (`overlong_prompts`). The cache of keys and
    values takes at most `cache_gib` (0: 1 GiB on a CPU, a third of a GPU's memory, and less where less is free). `dtype` is
    that of the matrices of our own engine; "auto": see `device.prefers_bfloat16`. With `cuda_graphs`
    its steps on a GPU are recorded and repeated, for models with Llama's layers; it is off, as docs/performance.md says,
    until it has been measured.

    `urls` are vLLM servers that run already; without any, vLLM is started beside the trainer on the same device, where it
    takes the share `gpu_memory` of a GPU's memory (on a CPU, `cache_gib`). `concurrency` counts samples in flight per
    server; a server that does not answer within `timeout_s` seconds counts as lost.
    """

    engine: Literal["local", "vllm"] = "local"
    max_prompt_tokens: PositiveInt = 4096
    overlong_prompts: Literal["skip", "refuse"] = "skip"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    cache_gib: NonNegativeFloat = 0.0
    cuda_graphs: bool = False
    urls: tuple[str, ...] = ()
    gpu_memory: PositiveFloat = 0.4
    concurrency: PositiveInt = 256
    timeout_s: PositiveFloat = 600.0


@dataclass(frozen=True)
class Training:
    """The optimizer's settings. `optimizer`: AdamW, or the same with 8 bits for each number that it remembers but those of
    the embedding (needs the extra adamw8bit). With `gradient_checkpointing` the backward pass computes activations again, a
    layer at a time, instead of keeping them.

    `old_log_probs`: ratios are taken to the sampler's log-probs, or to log-probs that the trainer recomputes before the
    first optimizer step; each token's loss is then multiplied by min(recomputed / sampler, `tis_cap`), the truncated
    importance ratio. `schedule` "linear" and "cosine" (half a wave) fall to 0 over the run's updates. `micro_batch_tokens`
    0 leaves the size of micro-batches to the device. `autocast` is the dtype of matrix products over float32 weights;
    "auto": see `device.prefers_bfloat16`.
    """

    lr: Finite = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_updates: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.01
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    max_grad_norm: PositiveFloat = 1.0
    micro_batch_tokens: NonNegativeInt = 0
    chunk_tokens: PositiveInt = 4096
    autocast: Literal["auto", "none", "bfloat16"] = "auto"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    gradient_checkpointing: bool = False
    old_log_probs: Literal["sampler", "recomputed"] = "sampler"
    tis_cap: PositiveFloat = 2.0


@dataclass(frozen=True)
class Distributed:
    """A run in several processes (ranks), started by `torchrun`. No exchange between them waits longer than `timeout_s`
    seconds for one that lags: it must cover the longest phase of sampling."""

    timeout_s: PositiveFloat = 1800.0


@dataclass(frozen=True)
class Replies:
    """How demonstrations are made: an imperfect teacher, so that there is something left to learn.

    `attempts` is the cap; each attempt is right with chance `p_right`, else a random wrong one. Refinements are careful
    with chance `p_careful` (repeat a right draft, go on with what a wrong one has not tried); the others do not look at
    the verdict of the draft: with equal chance they repeat its last attempt or start afresh.
    `phases` are shown once each. A reflection on a wrong try is a first step, the start of a right solution with chance
    `p_hint`; a retry goes on from it with chance `p_careful`, else it starts afresh. A merged answer of `candidates` is
    careful, with that chance, as a refinement is.
    """

    attempts: int = 2
    p_right: float = 0.5
    p_careful: float = 0.7
    p_hint: float = 0.3
    candidates: int = 3
    phases: tuple[Phase, ...] = ("solve", "refine")


@dataclass(frozen=True)
class ProblemSource:
    """`source` is a suite's name (math500, math5, ...), a generator ("countdown", "gym:TASK"), a .jsonl or
    .parquet file, or "hub:NAME" (with `subsets`, where the data set has them); several are separated by commas.
    `data` is a folder in which suites are looked for (NAME/SPLIT.parquet, NAME.parquet, or .jsonl) instead of the hub.

    `split` "" is "train" for training and "test" for evaluation. These name columns, see `answer_format.Columns`:
    `question`, `answer`, `context`, `tools`, `options`, `id`, `suite` (the benchmark of a row), `reply` and `draft` or
    `merged` and `candidates` (to imitate), `failure`.
    `verifier` is the form of the answer ("boxed", "choice", "calls", ...) or module:function. What is left empty is the
    suite's own, or the usual. A number that a function of your own returns is the reward, and the reply is right from
    `right_threshold` on; `verifier_timeout_s`, `verifier_memory_gib` and `verifier_in_process` limit it, as in `Reward`.
    `limit` keeps the first rows; 0 keeps all. `held_out` is the share that training leaves out and evaluation alone has,
    for sources without a test split; see `held_out.take_split`. `size` is how many problems a gym task makes, `gym` holds
    its settings, and `partial_scores` takes the scores of its checks as rewards (an answer is right at 1.0 alone);
    `numbers`, `largest` and `replies` belong to countdown.
    """

    source: str = "countdown"
    data: str = ""
    split: str = ""
    subsets: tuple[str, ...] = ()
    question: str = ""
    answer: str = ""
    tools: str = ""
    options: str = ""
    context: str = ""
    id: str = ""
    suite: str = ""
    reply: str = ""
    draft: str = ""
    merged: str = ""
    candidates: str = ""
    failure: str = ""
    verifier: str = ""
    right_threshold: Threshold = 1.0
    verifier_timeout_s: PositiveFloat = 10.0
    verifier_memory_gib: PositiveFloat = 4.0
    verifier_in_process: bool = False
    extraction: Literal["strict", "lenient"] = "strict"
    limit: int = 0
    held_out: float = 0.0
    size: int = 1000
    gym: Mapping[str, Any] = field(default_factory=dict)
    partial_scores: bool = False
    numbers: int = 3
    largest: int = 12
    replies: Replies = Replies()


@dataclass(frozen=True)
class Reward:
    """A term of the reward, `weight` times what `function` returns: "module:function", a number from 0 to 1 as
    docs/rewards.md says, or "verdict". It is logged as reward/`name` (empty: the function's name).

    With `only_if_right` it is 0 for wrong answers: after normalization in groups a bonus for form alone would look like
    success wherever all answers are wrong. The function runs in a process that is killed after `timeout_s` seconds, with
    `memory_gib` of memory, unless it is to run `in_process`, where nothing limits it.
    """

    function: str
    weight: Annotated[float, AllowInfNan(False)] = 1.0
    name: str = ""
    only_if_right: bool = True
    timeout_s: PositiveFloat = 10.0
    memory_gib: PositiveFloat = 4.0
    in_process: bool = False


@dataclass(frozen=True)
class AnswerSettings:
    """How problems are answered: `n` times by each strategy (several stand with commas). Strategies that end with "refine"
    make `n_refine` refinements of each draft.

    `k` lists the k of pass@k; empty: powers of two up to n. `refine_sampling` None is as `sampling`. Answers are written
    once some `batch` drafts are done: what a crash costs at most.
    """

    strategy: str = "refine"
    n: PositiveInt = 1
    n_refine: PositiveInt = 1
    k: tuple[int, ...] = ()
    batch_size: PositiveInt = 256
    sampling: Sampling = Sampling(temperature=0.0)
    refine_sampling: Sampling | None = None


@dataclass(frozen=True)
class Evaluation(AnswerSettings):
    """Held-out problems, and how they are answered; see `AnswerSettings`.

    `every` counts updates; 0 evaluates only at the end of the run, and only if problems are named.
    """

    problems: ProblemSource | None = None
    every: NonNegativeInt = 0


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server to ask in place of a local model. Its key is read from the environment variable
    `key_env`, where that is set, and stays there. `concurrency` counts requests under way. A server that sends nothing for
    `timeout_s` seconds, and every other failure that may pass, is tried again up to `retries` times, for about a minute
    in all."""

    url: str = ""
    key_env: Annotated[str, AfterValidator(_variable)] = "OPENAI_API_KEY"
    concurrency: PositiveInt = 16
    timeout_s: PositiveFloat = 600.0
    retries: NonNegativeInt = 10


@dataclass(frozen=True)
class AuxiliaryModel(ModelSource):
    """Another model beside the policy, here or, with a url, behind an endpoint. With `path` "" the teacher is the run's own
    start weights, frozen, and there is no judge; the judge "self" is the model that answers."""

    path: str = ""
    endpoint: Endpoint = Endpoint()
