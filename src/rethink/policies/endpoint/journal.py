"""Replies of an endpoint cost money and time: keep them until the results that need them are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rethink.jsonl import RecordMismatchError, append, read_lines, write_lines
from rethink.policies.base import Policy, PolicyWrapper
from rethink.seeds import stable_hash
from rethink.types import Group, Prompt, Sample, Sampling


class Journal(PolicyWrapper):
    """A policy that writes each group of replies to a file as it comes, and returns it from there if it is asked again.

    So a command that is stopped within a batch loses only the requests under way. Groups with a failed reply are not kept:
    they are requested again. The file is read at the first call of `groups`; RecordMismatchError is raised if its replies
    were kept with other `settings`, such as those of another model. `source` tells the models of one file apart."""

    def __init__(self, policy: Policy, file: Path, settings: str = "", source: str = "") -> None:
        super().__init__(policy)
        self.file = file
        self.settings = settings
        self.source = source
        self._kept: dict[str, list[dict[str, Any]]] | None = None

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield the groups that are kept, then the others as they come."""
        if self._kept is None:
            self._kept = self._read()
        lacking: list[int] = []
        for i, prompt in enumerate(prompts):
            replies = self._kept.get(self._key(prompt, n, sampling))
            if replies is None:
                lacking.append(i)
            else:
                yield i, tuple(map(partial(self._restore, prompt), range(n), replies))
        if not lacking:
            return
        for k, group in self.policy.groups([prompts[i] for i in lacking], n, sampling):
            i = lacking[k]
            if group and all(sample.stop != "failed" for sample in group):
                key = self._key(prompts[i], n, sampling)
                append(self.file, [{"settings": self.settings, "key": key, "replies": list(map(_record, group))}])
            yield i, group

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        """Return the replies in the file by key, after removing a last line that was cut short."""
        lines = list(read_lines(self.file))
        if lines:
            write_lines(self.file, [line for line, _ in lines])
        found: dict[str, list[dict[str, Any]]] = {}
        for _, record in lines:
            if record["settings"] != self.settings:
                raise RecordMismatchError(
                    f"{self.file} has replies to other settings: resume with those, or remove it and begin again"
                )
            found[record["key"]] = record["replies"]
        return found

    def _key(self, prompt: Prompt, n: int, sampling: Sampling | None) -> str:
        asked = repr(prompt.messages), repr(sampling), self.source
        return f"{stable_hash(prompt.seed, prompt.phase, n, *asked):016x}"

    def _restore(self, prompt: Prompt, index: int, reply: dict[str, Any]) -> Sample:
        sample = self.policy.transcribe(prompt, reply["text"])
        return replace(
            sample,
            index=index,
            stop=reply["stop"],
            usage=tuple(reply["usage"]),
            sampling=Sampling(**reply["sampling"]),
        )


def _record(sample: Sample) -> dict[str, Any]:
    return {"text": sample.text, "stop": sample.stop, "usage": sample.usage, "sampling": asdict(sample.sampling)}
