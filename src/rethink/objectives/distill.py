"""Distillation: the part that moves the policy towards its own distributions under another prompt, and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from rethink.types import Sample


@dataclass(frozen=True)
class Divergence:
    """Settings that say how far the distribution s of a token under the student is from t under the teacher.

    - `kind`: "forward" is KL(t || s); "reverse" is KL(s || t); "jensen_shannon" is KL(s || m) / 2 + KL(t || m) / 2 with
      m = (s + t) / 2.
    - `top_k`: the number of vocabulary entries that are compared; 0 compares all.
    - `top_k_of`: the most likely entries of the "student" (SDPO's release) or of the "teacher" (OPSD's).
    - `tail`: count all other entries as one (SDPO's release); False renormalizes s and t over the top k instead (OPSD's).
    - `ratio_cap`: each token's divergence is multiplied by min(p / p_sampler, `ratio_cap`), held constant, which corrects
      for samples of older weights; 0 is off.

    >>> Divergence("reverse", top_k=20).tail
    True
    """

    kind: Literal["forward", "reverse", "jensen_shannon"] = "jensen_shannon"
    top_k: NonNegativeInt = 100
    top_k_of: Literal["student", "teacher"] = "student"
    tail: bool = True
    ratio_cap: NonNegativeFloat = 2.0

    def __post_init__(self) -> None:
        if self.top_k == 1 and not self.tail:
            raise ValueError("top_k = 1 without a tail compares nothing: both probabilities are 1; set a larger top_k")


@dataclass(frozen=True)
class Distill:
    """Distillation of the policy's replies: the mean over their trained tokens of the divergence from a teacher.

    The student is the policy after the sample's own prompt. The teacher reads the same ids after another prompt, that of
    the sample at the same place in `teacher_samples`, and has no gradient. It is the "policy" itself, with the weights of
    the same optimizer step, or the "reference": the start model, or the moving one of `training.reference_every`. Both
    distributions have the sample's temperature. The loss holds a few tokens' logits at a time (`training.chunk_tokens`).

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.prompts import Prompts
    >>> from rethink.types import Problem, Verdict
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> policy = FakePolicy(lambda prompt, index, version: "it is 4")
    >>> ((sample,),) = policy.sample(Prompts("{question}").ask([problem]), n=1)
    >>> hinted = policy.transcribe(Prompts("{question} Hint: add.").ask([problem])[0], sample.text)
    >>> part = Distill((sample,), teacher_samples=(hinted,), divergence=Divergence("forward"))
    >>> part.samples[0].ids == part.teacher_samples[0].ids
    True
    """

    samples: tuple[Sample, ...]
    teacher_samples: tuple[Sample, ...]
    divergence: Divergence = Divergence()
    teacher: Literal["policy", "reference"] = "policy"
    coefficient: float = 1.0

    @property
    def units(self) -> tuple[Sample, ...]:
        return self.samples

    @property
    def needs_reference(self) -> bool:
        return self.teacher == "reference"

    def select(self, indices: Sequence[int]) -> Distill:
        samples = tuple(self.samples[i] for i in indices)
        return replace(self, samples=samples, teacher_samples=tuple(self.teacher_samples[i] for i in indices))

    def check(self) -> None:
        if len(self.samples) != len(self.teacher_samples):
            raise ValueError(f"{len(self.samples)} samples but {len(self.teacher_samples)} teacher_samples")
        for sample, read in zip(self.samples, self.teacher_samples, strict=True):
            what = f"sample {sample.index} of {sample.prompt.group}"
            if sample.usage is not None:
                raise ValueError(f"{what} comes from an endpoint and has no token ids to train on")
            if sample.ids != read.ids:
                raise ValueError(
                    f"{what} has other ids than the one that the teacher reads; make it with `policy.reprompt`"
                )
            if not sample.sampling.temperature > 0:
                raise ValueError(f"{what} is greedy: distributions need a temperature above 0")
