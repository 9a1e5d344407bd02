"""Samples as plain data (JSON), for checkpoints: what was sampled ahead, and buffers in a method's state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rethink.images import find
from rethink.types import Message, Problem, Prompt, RewardTerm, Sample, Sampling, Verdict


def sample_to_data(sample: Sample) -> dict[str, Any]:
    """Return a sample, with its prompt and drafts, as plain data that `sample_from_data` restores bit for bit.

    >>> from rethink.policies.fake import FakePolicy
    >>> from rethink.prompts import Prompts
    >>> problem = Problem("p1", "2 + 2?", "4", verify=lambda reply, gold: Verdict(reply == gold))
    >>> ((sample,),) = FakePolicy(lambda prompt, index, version: "4").sample(Prompts().ask([problem]), n=1)
    >>> restored = sample_from_data(sample_to_data(sample))
    >>> restored == sample, restored.problem.grade("4").reason
    (True, 'restored from a checkpoint, without its verifier')
    """
    return {"prompt": _prompt_to_data(sample.prompt), **reply_to_data(sample)}


def sample_from_data(data: Mapping[str, Any]) -> Sample:
    """Return the sample. Its problem has no verifier, demonstrations or row, so it cannot be graded again.

    Its images are those of the problems in memory with the same digests. Raise UserError if there is none."""
    return reply_from_data(data, _prompt_from_data(data["prompt"]))


def reply_to_data(sample: Sample) -> dict[str, Any]:
    """Return a sample without its prompt as plain data. A log-prob that is not known (NaN) becomes None."""
    verdict = sample.verdict
    return {
        "index": sample.index,
        "prompt_ids": list(sample.prompt_ids),
        "ids": list(sample.ids),
        "mask": list(map(int, sample.mask)),
        "forced": list(map(int, sample.forced)),
        "log_probs": [None if math.isnan(log_prob) else log_prob for log_prob in sample.log_probs],
        "text": sample.text,
        "stop": sample.stop,
        "sampling": asdict(sample.sampling),
        "version": sample.version,
        "verdict": None if verdict is None else asdict(verdict),
        "reward": sample.reward,
        "terms": [asdict(term) for term in sample.terms],
        "usage": None if sample.usage is None else list(sample.usage),
    }


def reply_from_data(data: Mapping[str, Any], prompt: Prompt) -> Sample:
    """Return the sample, as a reply to this prompt."""
    log_probs = [NAN if log_prob is None else log_prob for log_prob in data["log_probs"]]
    return Sample(
        prompt=prompt,
        index=data["index"],
        prompt_ids=tuple(data["prompt_ids"]),
        ids=tuple(data["ids"]),
        mask=tuple(map(bool, data["mask"])),
        log_probs=tuple(log_probs),
        text=data["text"],
        stop=data["stop"],
        sampling=Sampling(**data["sampling"]),
        version=data["version"],
        verdict=None if data["verdict"] is None else Verdict(**data["verdict"]),
        reward=data["reward"],
        terms=tuple(RewardTerm(**term) for term in data["terms"]),
        usage=None if data["usage"] is None else tuple(data["usage"]),
        forced=tuple(map(bool, data["forced"])),
    )


NAN = float("nan")

OF_PROBLEM = ("id", "question", "gold", "solve", "suite", "failure")
"""What is kept of a problem, besides the turns before its question."""


def _prompt_to_data(prompt: Prompt) -> dict[str, Any]:
    problem = prompt.problem
    return {
        "problem": {name: getattr(problem, name) for name in OF_PROBLEM},
        "earlier": _to_pairs(problem.earlier),
        "images": [image.digest for image in problem.images],
        "phase": prompt.phase,
        "messages": _to_pairs(prompt.messages),
        "seed": prompt.seed,
        "draft": None if prompt.draft is None else sample_to_data(prompt.draft),
    }


def _prompt_from_data(data: Mapping[str, Any]) -> Prompt:
    images = tuple(map(find, data["images"]))
    problem = Problem(**data["problem"], verify=_no_verifier, earlier=_from_pairs(data["earlier"]), images=images)
    draft = None if data["draft"] is None else sample_from_data(data["draft"])
    return Prompt(problem, data["phase"], _from_pairs(data["messages"]), data["seed"], draft)


def _to_pairs(messages: tuple[Message, ...]) -> list[list[str]]:
    return [[message.role, message.content, *(image.digest for image in message.images)] for message in messages]


def _from_pairs(pairs: Any) -> tuple[Message, ...]:
    return tuple(Message(role, content, tuple(map(find, digests))) for role, content, *digests in pairs)


def _no_verifier(_reply: str, _gold: str) -> Verdict:
    return Verdict(None, "restored from a checkpoint, without its verifier")
