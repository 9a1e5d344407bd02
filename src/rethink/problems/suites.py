"""Benchmark suites by name: where the data are, which columns they have, and the answer format.

docs/suites/ has a page on each, with source, license, size and known faults.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rethink.errors import UserError
from rethink.problems import vision_suites
from rethink.problems.rows import Row


@dataclass(frozen=True)
class Suite:
    """How to load a suite and how its answers are graded.

    `hub`: the name of the data set on the hub.
    `answer_format`: a key of `source.ANSWER_FORMATS`.
    `splits`: the hub's names for our splits "train" and "test". The hub calls some evaluation sets "train".
    `question`, `answer`, `tools`, `options`, `context`, `images`: columns, see `rows.Columns`. Of `a|b`, the hub's own
    names come first, then those of common local copies.
    `files`: two files of the data set to join by id, if the hub cannot load it as a whole.
    `local_names`: other names that the suite may have in a local data folder.
    `row_filter`: a column and a value; only rows with that value are kept.
    `read`: returns a row of the data set in the form that the answer format reads, or raises UserError.
    """

    hub: str
    answer_format: str = "boxed"
    splits: Mapping[str, str] = field(default_factory=lambda: {"test": "test"})
    subsets: tuple[str, ...] = ()
    question: str = "problem|question|extra_info.question|raw_question"
    answer: str = "answer|reward_model.ground_truth|ground_truth"
    tools: str = ""
    options: str = ""
    context: str = ""
    images: str = ""
    files: tuple[str, str] | None = None
    local_names: tuple[str, ...] = ()
    row_filter: tuple[str, str] | None = None
    read: Callable[[Row], Row] | None = None

    def pick_split(self, asked: str, purpose: str) -> str:
        """Return "train" or "test": the split asked for, or else the one for the purpose.

        An evaluation set is used for training only if its split is named. Raise ValueError otherwise; its text follows
        "SUITE has".
        """
        split = asked or (purpose if purpose in self.splits or purpose == "train" else next(iter(self.splits)))
        if split not in self.splits:
            hint = "" if asked else "; to train on an evaluation set, set its split"
            raise ValueError(f"no split {split}, only {' and '.join(self.splits)}{hint}")
        return split


TRAIN_AND_TEST = {"train": "train", "test": "test"}
TEST_CALLED_TRAIN = {"test": "train"}
MMMU_SUBJECTS = (
    "Art",
    "Art_Theory",
    "Design",
    "Music",
    "Accounting",
    "Economics",
    "Finance",
    "Manage",
    "Marketing",
    "Biology",
    "Chemistry",
    "Geography",
    "Math",
    "Physics",
    "Basic_Medical_Science",
    "Clinical_Medicine",
    "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy",
    "Public_Health",
    "History",
    "Literature",
    "Sociology",
    "Psychology",
    "Agriculture",
    "Architecture_and_Engineering",
    "Computer_Science",
    "Electronics",
    "Energy_and_Power",
    "Materials",
    "Mechanical_Engineering",
)
"""The configurations of MMMU, by discipline."""


def _with_images(
    hub: str, read: Callable[[Row], Row], splits: Mapping[str, str], subsets: tuple[str, ...] = ()
) -> Suite:
    """Return a suite of `vision_suites`, whose rows are questions of both kinds with images."""
    return Suite(hub, "mixed", splits, subsets, question="question", answer="answer", images="images", read=read)


SUITES: dict[str, Suite] = {
    "gsm8k": Suite(
        "openai/gsm8k",
        splits=TRAIN_AND_TEST,
        subsets=("main",),
        question="question|extra_info.question",
        answer="answer|reward_model.ground_truth",
    ),
    "math": Suite(
        "EleutherAI/hendrycks_math",
        splits=TRAIN_AND_TEST,
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
    "aime": Suite("AI-MO/aimo-validation-aime", splits=TEST_CALLED_TRAIN),
    "amc": Suite("AI-MO/aimo-validation-amc", splits=TEST_CALLED_TRAIN),
    "minerva": Suite("math-ai/minervamath", local_names=("minerva_math", "minervamath")),
    "olympiad": Suite(
        "afraamn/olympiadbench_math_textonly",
        splits={"test": "test_en"},
        answer="final_answer|answer|reward_model.ground_truth",
        context="context",
        local_names=("olympiadbench",),
    ),
    "aime24": Suite("math-ai/aime24", answer="answer|reward_model.ground_truth|solution"),
    "aime25": Suite("math-ai/aime25"),
    "gpqa": Suite(
        "Idavidrein/gpqa",
        "choice",
        splits=TEST_CALLED_TRAIN,
        subsets=("gpqa_diamond",),
        question="Question|question",
        answer="Correct Answer|answer",
        options="Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3",
        local_names=("gpqa_diamond",),
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
        local_names=("bfcl_simple",),
    ),
    "countdown-tasks": Suite(
        "Jiayi-Pan/Countdown-Tasks-3to4",
        "equation",
        splits={"train": "train"},
        question="",
        answer="reward_model.ground_truth|ground_truth|answer",
        local_names=("countdown",),
    ),
    "mathvista": _with_images("AI4Math/MathVista", vision_suites.mathvista, {"test": "testmini"}),
    "mathverse": _with_images("AI4Math/MathVerse", vision_suites.mathverse, {"test": "testmini"}, ("testmini",)),
    "mathvision": _with_images(
        "MathLLMs/MathVision", vision_suites.mathvision, {"test": "test", "testmini": "testmini"}
    ),
    "mmmu": _with_images("MMMU/MMMU", vision_suites.mmmu, {"test": "validation", "dev": "dev"}, MMMU_SUBJECTS),
    "geometry3k": Suite(
        "hiyouga/geometry3k",
        splits={**TRAIN_AND_TEST, "validation": "validation"},
        images="images",
        local_names=("geo3k",),
        read=vision_suites.geometry3k,
    ),
}

RECENT_AIME = {"2024": SUITES["aime24"], "2025": SUITES["aime25"], "2026": Suite("math-ai/aime26")}
"""Years that the data set of all contests lacks, or has only in part."""

GROUPS = {"math5": ("aime", "amc", "math500", "minerva", "olympiad")}
"""math5: the five sets of the ThinkTwice paper (arXiv 2604.01591)."""


def expand_sources(names: str) -> list[str]:
    """Return the single sources in "math5", "aime,amc" and so on."""
    if "," in names and Path(names).exists():
        return [names]
    found: list[str] = []
    for name in names.split(","):
        found += GROUPS.get(name.strip().lower(), (name.strip(),))
    return list(dict.fromkeys(found))


def find_suite(name: str) -> Suite | None:
    """Return the suite with that name, or None. "aime:2019" is the contests of that year."""
    first, _, year = name.partition(":")
    if first == "aime" and year in RECENT_AIME:
        return RECENT_AIME[year]
    if first == "aime" and year.isdigit():
        return Suite(
            "di-zhang-fdu/AIME_1983_2024",
            splits=TEST_CALLED_TRAIN,
            question="Question",
            answer="Answer",
            local_names=("AIME_1983_2024",),
            row_filter=("Year", year),
        )
    return SUITES.get(name)


def unknown_source(name: str, others: tuple[str, ...]) -> UserError:
    """Return the error for a source that is neither a suite nor a file."""
    if "/" in name or "\\" in name or Path(name).suffix:
        hub = f"; a data set on the hub is hub:{name}" if name.count("/") == 1 and not Path(name).suffix else ""
        return UserError(f"there is no file or folder {name}{hub}")
    known = (*SUITES, *GROUPS, *others)
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; suites are {', '.join(known)}"
    return UserError(f"{name!r} is not a suite, a file or folder of problems, or hub:NAME{hint}")
