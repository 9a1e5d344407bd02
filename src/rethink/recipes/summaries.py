"""What the shipped recipes are for: a summary of each, from its settings and from the comments at its beginning."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from itertools import takewhile

from rethink.recipes import FOLDER, shipped
from rethink.settings import ModelSource

LABEL = re.compile(r"([A-Z][a-z]+): +(.*)")
ON_A_CPU = re.compile(r"((?:about )?(?:a|a few|two|\d+) minutes?) on (\w+ CPU cores)")


@dataclass(frozen=True)
class Summary:
    """A recipe in a few words. What its header does not say is "".

    - `purpose`: the first paragraph of the header.
    - `method`, `model`: as in the recipe; a recipe for evaluations only has neither.
    - `hardware`, `time`: what the header states, and whether it was reported, estimated or measured.
    """

    name: str
    purpose: str
    method: str
    model: str
    hardware: str
    time: str

    @property
    def short_hardware(self) -> str:
        """The reported hardware, or our estimate where nothing was reported."""
        reported, _, estimate = self.hardware.partition(" Our estimate")
        if not estimate or not reported.startswith("not "):
            return reported.rstrip(".")
        return "estimate: " + re.split(r": |, so ", estimate)[-1].partition(". ")[0].rstrip(".")

    @property
    def short_time(self) -> str:
        """The time, without its conditions."""
        if self.time.startswith("not stated"):
            return "not known"
        return self.time.partition(", not measured")[0].partition(". ")[0]

    def has(self, word: str) -> bool:
        """Return whether the summary contains a word, in any case."""
        texts = (self.name, self.purpose, self.method, self.model, self.hardware)
        return word.lower() in "\n".join(texts).lower()


def summarize(name: str) -> Summary:
    """Return the summary of a shipped recipe.

    >>> found = summarize("thinktwice-qwen3-4b")
    >>> found.method, found.model, found.short_hardware, found.short_time
    ('think_twice', 'Qwen/Qwen3-4B-Instruct-2507', 'two H100 80 GB (reported)', '9.4 hours (reported)')
    """
    text = (FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    purpose, labels = _header(text)
    settings = tomllib.loads(text)
    method = settings.get("method", {}).get("name", "")
    model = settings.get("model", {}).get("path", ModelSource().path if method else "")
    hours, hardware = labels.get("Hours", ""), labels.get("Hardware", "")
    time = re.sub(r"^([\d.]+)", r"\1 hours", hours)
    on_a_cpu = ON_A_CPU.search(" ".join(_comment_lines(text)))
    if on_a_cpu and not hardware:
        time, hardware = on_a_cpu.groups()
    return Summary(name, purpose, method, model, hardware, time)


def summarize_all() -> list[Summary]:
    """Return the summaries of all shipped recipes, in order."""
    return [summarize(name) for name in shipped()]


def _comment_lines(text: str) -> list[str]:
    comments = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return [line.removeprefix("#").removeprefix(" ") for line in comments]


def _header(text: str) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of the comments, and the paragraphs that begin with a label, by label."""
    purpose: list[str] = []
    labels: dict[str, str] = {}
    label = ""
    for line in _comment_lines(text):
        found = LABEL.match(line)
        if found:
            label = found[1]
            labels[label] = found[2]
        elif label and line.startswith("  "):
            labels[label] += " " + line.strip()
        elif not line.strip() or line.startswith(("Run", "Made with", "Expected")):
            label = "the rest"
            labels[label] = ""
        elif not label:
            purpose.append(line.strip())
    return " ".join(purpose), labels
