"""Named benchmarks: where each is kept, which columns it has, and in which form it is answered. One page each in
docs/suites/, with source, licence, size and known faults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from rethink.errors import UserError


@dataclass(frozen=True)
class Suite:
    """`hub` is the data set's name there, and `form` that of its answers. Of alternative columns (`a|b`) the first that
    a row has counts: the hub's own come first, then those of the usual local copies. `splits` maps train and test to the
    hub's names: some sets for evaluation alone are called "train" there. `files` are two files of the data set, joined by
    id, where it cannot be loaded as a whole. `folders` are names under which a data folder may keep it; `where` keeps the
    rows whose column has that value.
    """

    hub: str
    form: str = "boxed"
    splits: Mapping[str, str] = field(default_factory=lambda: {"test": "test"})
    subsets: tuple[str, ...] = ()
    question: str = "problem|question|extra_info.question|raw_question"
    answer: str = "answer|reward_model.ground_truth|ground_truth"
    tools: str = ""
    options: str = ""
    context: str = ""
    files: tuple[str, str] | None = None
    folders: tuple[str, ...] = ()
    where: tuple[str, str] | None = None

    def pick_split(self, asked: str, purpose: str) -> str:
        """Train or test: the one asked for, else the one for the purpose; what is for evaluation alone is no training
        data unless asked for by name. Raises ValueError with what to put behind the suite's name and "has"."""
        split = asked or (purpose if purpose in self.splits or purpose == "train" else next(iter(self.splits)))
        if split not in self.splits:
            hint = "" if asked else "; to train on what is for evaluation, name the split"
            raise ValueError(f"no split {split}, only {' and '.join(self.splits)}{hint}")
        return split


BOTH = {"train": "train", "test": "test"}
CALLED_TRAIN = {"test": "train"}

SUITES: dict[str, Suite] = {
    "gsm8k": Suite(
        "openai/gsm8k",
        splits=BOTH,
        subsets=("main",),
        question="question|extra_info.question",
        answer="answer|reward_model.ground_truth",
    ),
    "math": Suite(
        "EleutherAI/hendrycks_math",
        splits=BOTH,
        subsets=(
            "algebra",
            "counting_and_probability",
            "geometry",
            "intermediate_algebra",
            "number_theory",
            "prealgebra",
            "precalculus",
        ),
        answer="answer|reward_model.ground_truth|solution",
    ),
    "math500": Suite("HuggingFaceH4/MATH-500"),
    "aime": Suite("AI-MO/aimo-validation-aime", splits=CALLED_TRAIN),
    "amc": Suite("AI-MO/aimo-validation-amc", splits=CALLED_TRAIN),
    "minerva": Suite("math-ai/minervamath", folders=("minerva_math", "minervamath")),
    "olympiad": Suite(
        "afraamn/olympiadbench_math_textonly",
        splits={"test": "test_en"},
        answer="final_answer|answer|reward_model.ground_truth",
        context="context",
        folders=("olympiadbench",),
    ),
    "aime24": Suite("math-ai/aime24", answer="answer|reward_model.ground_truth|solution"),
    "aime25": Suite("math-ai/aime25"),
    "gpqa": Suite(
        "Idavidrein/gpqa",
        "choice",
        splits=CALLED_TRAIN,
        subsets=("gpqa_diamond",),
        question="Question|question",
        answer="Correct Answer|answer",
        options="Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3",
        folders=("gpqa_diamond",),
    ),
    "xlam": Suite(
        "Salesforce/xlam-function-calling-60k",
        "calls",
        splits={"train": "train"},
        question="query",
        answer="answers",
        tools="tools",
    ),
    "bfcl": Suite(
        "gorilla-llm/Berkeley-Function-Calling-Leaderboard",
        "bfcl",
        files=("BFCL_v3_simple.json", "possible_answer/BFCL_v3_simple.json"),
        question="question",
        answer="ground_truth",
        tools="function",
        folders=("bfcl_simple",),
    ),
    "countdown-tasks": Suite(
        "Jiayi-Pan/Countdown-Tasks-3to4",
        "equation",
        splits={"train": "train"},
        question="",
        answer="reward_model.ground_truth|ground_truth|answer",
        folders=("countdown",),
    ),
}

RECENT_AIME = {"2024": SUITES["aime24"], "2025": SUITES["aime25"], "2026": Suite("math-ai/aime26")}
"""Years that the set of all contests lacks, in part or wholly."""

GROUPS = {"math5": ("aime", "amc", "math500", "minerva", "olympiad")}
"""math5: the five sets of the ThinkTwice paper (arXiv 2604.01591)."""


def expand(names: str) -> list[str]:
    """The single sources behind "math5", "aime,amc" and the like."""
    found: list[str] = []
    for name in names.split(","):
        found += GROUPS.get(name.strip().lower(), (name.strip(),))
    return list(dict.fromkeys(found))


def find_suite(name: str) -> Suite | None:
    """The suite of that name; "aime:2019" is that year's contests. None where there is none."""
    first, _, year = name.partition(":")
    if first == "aime" and year in RECENT_AIME:
        return RECENT_AIME[year]
    if first == "aime" and year.isdigit():
        return Suite(
            "di-zhang-fdu/AIME_1983_2024",
            splits=CALLED_TRAIN,
            question="Question",
            answer="Answer",
            folders=("AIME_1983_2024",),
            where=("Year", year),
        )
    return SUITES.get(name)


def unknown(name: str, others: tuple[str, ...]) -> UserError:
    """The error for a source that is neither a suite nor a file."""
    known = (*SUITES, *GROUPS, *others)
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; suites are {', '.join(known)}"
    return UserError(f"{name!r} is no suite, .jsonl or .parquet file, and not of the form hub:NAME{hint}")
