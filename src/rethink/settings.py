"""The sections of a recipe: the name, meaning, bounds and default of each setting.

Code that needs a section takes the whole dataclass, so no default is written twice. The bounds in the annotations are
checked when a recipe is loaded (`rethink.recipe.load_recipe`), not when code makes a section.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, AllowInfNan, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rethink.credentials import check_url, check_variable
from rethink.images import check_pixels
from rethink.thinking import check_marks
from rethink.types import Sampling

Finite = Annotated[PositiveFloat, AllowInfNan(False)]
Threshold = Annotated[float, Gt(0), Le(1)]
Probability = Annotated[float, Ge(0), Le(1)]
Fraction = Annotated[float, Ge(0), Lt(1)]
Size = Annotated[NonNegativeFloat, AllowInfNan(False)]
ImportanceSamplingMode = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


def default_of(setting: Field[Any]) -> Any:
    """Return the default of a dataclass field, also one from a factory, or MISSING if there is none."""
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


@dataclass(frozen=True)
class ModelSource:
    """A model: `[model]`.

    - `path`: a folder, a GGUF file, a name on the hub, or "tiny", "tiny-signs" or "tiny-shapes", which ship with rethink.
    - `random`: draw random weights from the run's seed instead of loading them.
    - `dtype`: the dtype of the weights.
    - `head_dtype`: the dtype of the factors in the output layer's products, in training and in the local engine; sums and
      logits are float32. "auto" is that of the other products on a GPU, and float32 on a CPU.
    - `device`: "cpu", "cuda", or "auto" for a GPU if there is one.
    - `template`: a chat template to use instead of the tokenizer's: "plain", "chatml", or a file.
    - `template_options`: variables that are passed to the chat template.
    - `thinking`: the opening and closing mark of the thinking in replies, if these are not marks of a common model family
      (docs/grading.md).
    - `image_pixels`: the fewest and the most pixels that images are scaled to, for models that take images of any size
      (Qwen2.5-VL, Qwen3-VL); empty is what the model's own processor has.
    """

    path: str = "tiny"
    random: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    head_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    template: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)
    thinking: Annotated[tuple[str, ...], AfterValidator(check_marks)] = ()
    image_pixels: Annotated[tuple[PositiveInt, ...], AfterValidator(check_pixels)] = ()


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al., arXiv 2106.09685), without dropout: `[lora]`.

    The weight W of a layer is frozen, and the layer uses W + `alpha` / `rank` * B A. Only A [rank, in] and B [out,
    rank] are trained.

    - `rank`: the rank; 0 trains all weights instead.
    - `alpha`: the scale of the adapter.
    - `targets`: the linear layers that get an adapter, by the ends of their names; "all-linear" is every linear layer
      except the output layer.
    """

    rank: NonNegativeInt = 0
    alpha: Finite = 32.0
    targets: str | tuple[str, ...] = "all-linear"


@dataclass(frozen=True)
class Sampler:
    """The engine that samples replies: `[sampler]`.

    - `engine`: "local" is our own; "vllm" is vLLM, in training only (extra `vllm`; docs/vllm.md).
    - `max_prompt_tokens`: the largest length of a prompt, in tokens.
    - `overlong_prompts`: "skip" leaves longer prompts out and counts them; "refuse" raises an error.
    - `dtype`: the dtype of the local engine's matrices; "auto" is bfloat16 where that is faster (docs/performance.md).
    - `cache_gib`: the maximum size of the KV cache in GiB; 0 means 1 GiB on a CPU and a third of a GPU's memory, or
      less if less is free.
    - `cuda_graphs`: record the steps of the local engine as CUDA graphs, for models with Llama's layers. Not run on a
      GPU yet (docs/performance.md).
    - `urls`: vLLM servers that are already running; if empty, the run starts vLLM on the trainer's device.
    - `gpu_memory`: the fraction of the GPU's memory for that vLLM; on a CPU, `cache_gib` is used instead.
    - `concurrency`: the number of samples in flight per server.
    - `timeout_s`: the time in seconds after which a server that does not answer counts as lost.
    - `transfer`: what vLLM gets after each update of a LoRA run: only the "adapter", or all weights with the adapter
      "merged" into them; "auto" is the adapter where vLLM can use it (docs/vllm.md).
    """

    engine: Literal["local", "vllm"] = "local"
    max_prompt_tokens: PositiveInt = 4096
    overlong_prompts: Literal["skip", "refuse"] = "skip"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    cache_gib: Size = 0.0
    cuda_graphs: bool = False
    urls: tuple[Annotated[str, AfterValidator(check_url)], ...] = ()
    gpu_memory: Threshold = 0.4
    concurrency: PositiveInt = 256
    timeout_s: Finite = 600.0
    transfer: Literal["auto", "adapter", "merged"] = "auto"


@dataclass(frozen=True)
class Training:
    """The optimizer and the trainer: `[training]`.

    - `lr`: the peak learning rate.
    - `schedule`: "constant", or a "linear" or "cosine" decay that would be 0 after the run's last update.
    - `warmup_updates`: the number of updates in which the learning rate rises to `lr`.
    - `weight_decay`: AdamW's weight decay.
    - `betas`: AdamW's two decay rates.
    - `max_grad_norm`: the norm at which gradients are clipped; inf switches clipping off.
    - `micro_batch_tokens`: the number of tokens in a micro-batch; 0 is a default that depends on the device.
    - `chunk_tokens`: the number of tokens whose logits are computed at a time.
    - `autocast`: the dtype of products with float32 weights; "auto" is bfloat16 where that is faster (docs/performance.md).
    - `optimizer`: "adamw", or "adamw8bit", whose state has 8 bits, except for the embedding (extra `adamw8bit`).
    - `vision`: what is trained of a vision-language model besides its language model: nothing ("frozen"), the "projector",
      or "all" of the vision tower, projector included (docs/models.md).
    - `gradient_checkpointing`: recompute the activations of each layer in the backward pass instead of keeping them.
    - `old_log_probs`: the log-probs that ratios are relative to: the sampler's ("sampler"), or those that the trainer
      recomputes before the first optimizer step ("recomputed").
    - `reference_every`: the number of updates after which the reference of KL terms (and of other comparisons with the
      start model) moves to the trained weights; 0 keeps the start model. GPUs share one more model in float32.
    - `reference_mixup`: how far the reference moves: 1 replaces it; a smaller fraction makes it an average over updates.
    - `importance_sampling_mode`: with recomputed log-probs, each token's loss is multiplied by the importance weight
      recomputed / sampler: of the token ("token_truncate", "token_mask") or of its whole reply ("sequence_truncate",
      "sequence_mask"). Weights outside of the bounds are clipped to them ("truncate") or become 0 ("mask"). "none"
      switches weights off (docs/losses.md).
    - `importance_sampling_clip_max`: the upper bound of these weights; inf is none.
    - `importance_sampling_clip_min`: the lower bound of these weights; 0 is none.
    """

    lr: Finite = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_updates: NonNegativeInt = 0
    weight_decay: Size = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    max_grad_norm: PositiveFloat = 1.0
    micro_batch_tokens: NonNegativeInt = 0
    chunk_tokens: PositiveInt = 4096
    autocast: Literal["auto", "none", "bfloat16"] = "auto"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    vision: Literal["frozen", "projector", "all"] = "frozen"
    gradient_checkpointing: bool = False
    old_log_probs: Literal["sampler", "recomputed"] = "sampler"
    reference_every: NonNegativeInt = 0
    reference_mixup: Threshold = 1.0
    importance_sampling_mode: ImportanceSamplingMode = "token_truncate"
    importance_sampling_clip_max: PositiveFloat = 2.0
    importance_sampling_clip_min: Size = 0.0

    def __post_init__(self) -> None:
        if self.importance_sampling_clip_min >= self.importance_sampling_clip_max:
            raise ValueError(
                f"importance_sampling_clip_min = {self.importance_sampling_clip_min:g} must be below "
                f"importance_sampling_clip_max = {self.importance_sampling_clip_max:g}"
            )


@dataclass(frozen=True)
class Distributed:
    """A run in several processes (ranks), started by `torchrun`: `[distributed]`.

    - `timeout_s`: the time in seconds that ranks wait for each other; it must exceed the longest sampling phase.
    """

    timeout_s: Finite = 1800.0


@dataclass(frozen=True)
class Replies:
    """Demonstrations for countdown, signs and shapes by a teacher that makes mistakes, so that there is room to improve:
    `[problems.replies]`.

    - `attempts`: the largest number of attempts in a reply. In signs it is always one.
    - `p_right`: the probability that an attempt is right; in signs, that a line is. Otherwise it is a random wrong one.
    - `p_careful`: the probability that a later answer is careful. In countdown, a careful refinement or merged answer
      repeats a right draft, or tries something that wrong drafts have not tried; others repeat the last attempt or start
      over, with equal probability. A careful retry continues from its reflection; others start over. In signs, a careful
      line keeps a right line of a draft, or is written again; others repeat a line of a draft.
    - `p_hint`: the probability that a reflection helps. In countdown, it is one step, which begins a right solution or
      else a wrong one. In signs, it is a check ("right", or "wrong 2 3" with the numbers of the wrong lines) of the draft
      or else of another attempt.
    - `candidates`: the number of candidates from which an answer is merged.
    - `phases`: the kinds of replies; each problem gets one of each.
    """

    attempts: PositiveInt = 2
    p_right: Probability = 0.5
    p_careful: Probability = 0.7
    p_hint: Probability = 0.3
    candidates: PositiveInt = 3
    phases: tuple[Literal["solve", "refine", "reflect", "retry", "merge"], ...] = ("solve", "refine")


@dataclass(frozen=True)
class ProblemSource:
    """Problems: `[problems]` for training, `[evaluation.problems]` for evaluation.

    Where they come from:

    - `source`: a suite (math500, gsm8k, ...), a generator ("countdown", "signs", "shapes", "gym:TASK"), a file or folder
      (docs/problems.md), or "hub:NAME"; separate several with commas.
    - `data`: a folder that holds suites (NAME/SPLIT.parquet, NAME.parquet, or .jsonl and so on), used instead of the hub.
    - `split`: the split; "" is "train" for training and "test" for evaluation.
    - `subsets`: the subsets of a data set on the hub.

    Names of columns (docs/problems.md):

    - `question`: the column of the question; "" is the suite's, or "question".
    - `answer`: the column of the gold answer; "" is the suite's, or "answer".
    - `tools`: the column of the functions that a reply may call; "" is the suite's, or "tools".
    - `options`: the column of the options of a multiple-choice question; "" is the suite's, or "options".
    - `context`: the column of text in front of the question; "" is the suite's, or none.
    - `images`: the columns of images, separated by commas; "" is the suite's, or "images", "image" and the like.
    - `id`: the column of the problem's id.
    - `suite`: the column of the benchmark that a row belongs to.
    - `reply`: the column of a reply to imitate.
    - `draft`: the column of the draft that `reply`, or `chosen` and `rejected`, refine.
    - `merged`: the column of a reply to imitate that merges candidates.
    - `candidates`: the column of the candidates that `merged` merges.
    - `failure`: the column of a wrong reply to start from.
    - `chosen`: the column of a reply that is better than `rejected`, for methods that learn from pairs.
    - `rejected`: the column of that worse reply.

    How replies are graded:

    - `verifier`: an answer format ("boxed", "choice", "calls", ...) or "module:function"; "" is the suite's.
    - `right_threshold`: the lowest score of a custom verifier that counts as right; the score is the reward.
    - `verifier_timeout_s`: the time in seconds after which a custom verifier is killed.
    - `verifier_memory_gib`: the memory limit of a custom verifier's process, in GiB.
    - `verifier_sandbox`: run a custom verifier without network, keys and a writable disk (docs/security.md).
    - `verifier_in_process`: run a custom verifier in this process, without limits or sandbox.
    - `extraction`: "strict" accepts answers in the requested format only; "lenient" also finds others.

    Which problems are used:

    - `limit`: the number of problems to keep, from the start; 0 keeps all.
    - `held_out`: the fraction of problems that only evaluation uses, for sources without a test split. A hash decides.

    Settings of generators:

    - `size`: the number of problems that a gym task makes.
    - `gym`: settings of the gym task.
    - `partial_scores`: use the gym task's scores as rewards; only a score of 1.0 is right.
    - `numbers`: the number of numbers in a countdown problem, or in a line of a signs problem.
    - `largest`: the largest number in a countdown problem, or in a line of a signs problem.
    - `lines`: the number of lines in a signs problem.
    - `level`: the difficulty of shapes, from 1 to 3.
    - `replies`: how the demonstrations for countdown, signs and shapes are made.

    >>> import rethink
    >>> rethink.ProblemSource("problems.jsonl", question="prompt", answer="solution", verifier="boxed").answer
    'solution'
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
    images: str = ""
    id: str = ""
    suite: str = ""
    reply: str = ""
    draft: str = ""
    merged: str = ""
    candidates: str = ""
    failure: str = ""
    chosen: str = ""
    rejected: str = ""
    verifier: str = ""
    right_threshold: Threshold = 1.0
    verifier_timeout_s: Finite = 10.0
    verifier_memory_gib: Finite = 4.0
    verifier_sandbox: bool = True
    verifier_in_process: bool = False
    extraction: Literal["strict", "lenient"] = "strict"
    limit: NonNegativeInt = 0
    held_out: Fraction = 0.0
    size: PositiveInt = 1000
    gym: Mapping[str, Any] = field(default_factory=dict)
    partial_scores: bool = False
    numbers: PositiveInt = 3
    largest: PositiveInt = 12
    lines: PositiveInt = 3
    level: PositiveInt = 1
    replies: Replies = Replies()


@dataclass(frozen=True)
class Reward:
    """A term of the reward: `[[rewards]]`, explained in docs/rewards.md.

    - `function`: "module:function", which returns a number from 0 to 1; or "verdict", the verifier's verdict.
    - `weight`: the factor of this term in the sum.
    - `name`: the name in the logs, reward/NAME; "" is the function's name.
    - `only_if_right`: make the term 0 for wrong answers. Otherwise, in a group of wrong answers, a bonus for format
      alone would look like success.
    - `timeout_s`: the time in seconds after which the function's process is killed.
    - `memory_gib`: the memory limit of that process, in GiB.
    - `sandbox`: run the function without network, keys and a writable disk (docs/security.md).
    - `in_process`: run the function in this process, without limits or sandbox.
    """

    function: str
    weight: Annotated[float, AllowInfNan(False)] = 1.0
    name: str = ""
    only_if_right: bool = True
    timeout_s: Finite = 10.0
    memory_gib: Finite = 4.0
    sandbox: bool = True
    in_process: bool = False


@dataclass(frozen=True)
class AnswerSettings:
    """How problems are answered: part of `[evaluation]`.

    - `strategy`: how to answer, such as "solve", "refine" or "solve:8+vote" (docs/strategies.md); separate several with
      commas.
    - `n`: the number of answers to each problem by each strategy.
    - `n_refine`: the number of refinements of each draft, for strategies that end with "refine".
    - `k`: the values of k in pass@k; empty means the powers of two up to n.
    - `batch_size`: the number of drafts after which answers are written; a crash loses at most one batch.
    - `sampling`: how answers are sampled.
    - `refine_sampling`: how refinements are sampled; by default, like answers.

    >>> import rethink
    >>> rethink.AnswerSettings("solve:8+vote", n=4, sampling=rethink.Sampling(temperature=0.7)).n
    4
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
    """Evaluation on held-out problems: `[evaluation]`. The first keys are those of `AnswerSettings`.

    - `problems`: the held-out problems; without them, nothing is evaluated.
    - `at_start`: also evaluate the start model, before the first update, for a comparison with the trained one.
    - `every`: the number of updates between evaluations; 0 evaluates only at the end of the run.
    """

    problems: ProblemSource | None = None
    at_start: bool = False
    every: NonNegativeInt = 0


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server to use instead of a local model: `[endpoint]`.

    - `url`: the server's address; "" uses a local model.
    - `key_env`: the environment variable that holds the API key; the key itself is never stored.
    - `concurrency`: the number of requests in flight.
    - `timeout_s`: the time in seconds for a whole answer. A request may be repeated until twice this time is used up.
    - `retries`: the number of times that a request is repeated after a transient failure; ten take about a minute.
    """

    url: Annotated[str, AfterValidator(check_url)] = ""
    key_env: Annotated[str, AfterValidator(check_variable)] = "OPENAI_API_KEY"
    concurrency: PositiveInt = 16
    timeout_s: Finite = 600.0
    retries: NonNegativeInt = 10


@dataclass(frozen=True)
class AuxiliaryModel(ModelSource):
    """A second model: `[teacher]` or `[judge]`. It has the keys of `ModelSource`, and:

    - `path`: a model, as in `model.path`. For a teacher, "" is the run's frozen start weights. For a judge, "" means that
      there is none, and "self" is the model that answers.
    - `endpoint`: the server that runs it, if it has a `url`.
    """

    path: str = ""
    endpoint: Endpoint = Endpoint()
