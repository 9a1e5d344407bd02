"""Rows of the suites with images, made up, in the form of the hub's data sets, and a stand-in for the hub."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import datasets
from datasets import Features, Image, List, Value
from PIL import Image as Pillow

from rethink.problems.suites import MMMU_SUBJECTS

Row = dict[str, Any]
TEXT = Value("string")
NUMBER = Value("float64")
COLORS = ("red", "green", "blue", "white", "black", "yellow", "gray")


def png(color: str) -> bytes:
    stream = io.BytesIO()
    Pillow.new("RGB", (30, 20), color).save(stream, "PNG")
    return stream.getvalue()


def cell(color: str) -> dict[str, Any]:
    """A cell of an image column."""
    return {"bytes": png(color), "path": f"{color}.png"}


@dataclass(frozen=True)
class Expected:
    """A problem: its question, gold answer and the colors of its images, and replies of either verdict."""

    question: str
    gold: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    images: tuple[str, ...] = ("red",)


@dataclass(frozen=True)
class Case:
    hub: str
    configs: tuple[str | None, ...]
    split: str
    features: dict[str, Any]
    rows: list[Row]
    expected: list[Expected]
    format: str = "mixed"
    layouts: tuple[str, ...] = field(default=("{}.parquet", "{}/test.parquet"))

    def table(self, n: int | None = None) -> datasets.Dataset:
        """All rows, or one of them, as `datasets.load_dataset` returns them."""
        return datasets.Dataset.from_list(self.rows if n is None else [self.rows[n]], Features(self.features))


def mathvista(question: str, answer: str, kind: str, **others: Any) -> Row:
    choices = others.get("choices")
    return {
        "pid": "1", "question": question, "image": "images/1.jpg", "decoded_image": cell("red"), "choices": None,
        "unit": None, "precision": None, "answer": answer, "answer_type": kind,
        "question_type": "multi_choice" if choices else "free_form", "query": "Hint: ...", **others,
    }  # fmt: skip


def mathverse(version: str, question: str, answer: str, kind: str) -> Row:
    return {
        "sample_index": "1", "problem_index": "1", "problem_version": version, "question": question,
        "image": cell("red"), "answer": answer, "question_type": kind, "query_wo": "...", "question_for_eval": "...",
    }  # fmt: skip


def mathvision(question: str, options: list[str], answer: str) -> Row:
    return {
        "id": "1", "question": question, "options": options, "image": "images/1.jpg", "decoded_image": cell("red"),
        "answer": answer, "solution": None, "level": 2, "subject": "counting",
    }  # fmt: skip


def mmmu(question: str, options: str, answer: str, n_images: int = 1) -> Row:
    shown = {f"image_{n + 1}": cell(COLORS[n]) if n < n_images else None for n in range(7)}
    return {
        "id": "validation_Art_1", "question": question, "options": options, "explanation": "", **shown,
        "img_type": "['Tables']", "answer": answer, "topic_difficulty": "Easy",
        "question_type": "open" if options == "[]" else "multiple-choice", "subfield": "Drawing",
    }  # fmt: skip


VISION_CASES: dict[str, Case] = {
    "mathvista": Case(
        "AI4Math/MathVista", (None,), "testmini",
        {"pid": TEXT, "question": TEXT, "image": TEXT, "decoded_image": Image(), "choices": List(TEXT), "unit": TEXT,
         "precision": NUMBER, "answer": TEXT, "question_type": TEXT, "answer_type": TEXT, "query": TEXT},
        [
            mathvista("How long is AC?", "2", "text", choices=["2", "1", "6cm "]),
            mathvista("Which one?", "E", "text", choices=["A", "B", "C", "D", "E"]),
            mathvista("Which side?", "18", "text", choices=["9", "12", "18", "18"]),
            mathvista("How old is he?", "7", "integer", unit="years"),
            mathvista("How far?", "1.2", "float", precision=1.0),
            mathvista("Which years?", "[2014, 2016]", "list"),
        ],
        [
            Expected(
                "How long is AC?\n\nA) 2\nB) 1\nC) 6cm", "A", ("\\boxed{A}", "\\boxed{(A)}"),
                ("\\boxed{C}", "\\boxed{2}"),
            ),
            Expected(
                "Which one?\n\nThe options are A, B, C, D and E in the image.", "E", ("\\boxed{E}",), ("\\boxed{A}", "E")
            ),
            Expected(
                "Which side?\n\nA) 9\nB) 12\nC) 18\nD) 18", '["C", "D"]', ("\\boxed{C}", "\\boxed{D}"), ("\\boxed{A}",)
            ),
            Expected(
                "How old is he? (Unit: years)\n\nThe answer is a whole number.", "7",
                ("\\boxed{7}", "\\boxed{7 \\text{ years}}"), ("\\boxed{7.4}", "\\boxed{70}"),
            ),
            Expected(
                "How far?\n\nGive the answer with one decimal place.", "≈1.2",
                ("\\boxed{1.2}", "\\boxed{1.1549}", "\\boxed{\\frac{7}{6} \\text{ m}}"), ("\\boxed{1.1}", "\\boxed{12}"),
            ),
            Expected(
                "Which years?\n\nThe answer is a list in square brackets, for example [1, 2, 3].", "[2014, 2016]",
                ("\\boxed{[2014, 2016]}",), ("\\boxed{[2016, 2014]}",),
            ),
        ],
        layouts=("{}.parquet", "{}/testmini.parquet"),
    ),
    "mathverse": Case(
        "AI4Math/MathVerse", ("testmini",), "testmini",
        {"sample_index": TEXT, "problem_index": TEXT, "problem_version": TEXT, "question": TEXT, "image": Image(),
         "answer": TEXT, "question_type": TEXT, "query_wo": TEXT, "question_for_eval": TEXT},
        [
            mathverse("Text Dominant", "Then angle CED is ()\nChoices:\nA:40°\nB:60°", "(B)", "multi-choice"),
            mathverse("Vision Only", "", "D", "multi-choice"),
            mathverse("Vision Only", "", "A\nC", "multi-choice"),
            mathverse("Text Lite", "Find the area.", "Area $=9 \\pi \\mathrm{cm}^{2}$", "free-form"),
            mathverse("Text Lite", "Find the bearing.", "35\u63b3", "free-form"),
        ],
        [
            Expected("Then angle CED is ()\nChoices:\nA:40°\nB:60°", "B", ("\\boxed{B}",), ("\\boxed{A}", "\\boxed{60}")),
            Expected("Answer the question in the image.", "D", ("\\boxed{\\text{D}}",), ("\\boxed{40}",)),
            Expected("Answer the question in the image.", "A, C", ("\\boxed{A, C}", "\\boxed{AC}"), ("\\boxed{A}",)),
            Expected(
                "Find the area.", "Area $=9 \\pi \\mathrm{cm}^{2}$", ("\\boxed{9\\pi}", "\\boxed{9\\pi \\text{ cm}^2}"),
                ("\\boxed{9}",),
            ),
            Expected("Find the bearing.", "35°", ("\\boxed{35^\\circ}",), ("\\boxed{53^\\circ}",)),
        ],
        layouts=("{}.parquet", "{}/testmini.parquet"),
    ),
    "mathvision": Case(
        "MathLLMs/MathVision", (None,), "test",
        {"id": TEXT, "question": TEXT, "options": List(TEXT), "image": TEXT, "decoded_image": Image(), "answer": TEXT,
         "solution": TEXT, "level": Value("int64"), "subject": TEXT},
        [
            mathvision("Which number?\n<image1>", [], "60"),
            mathvision("Which kite?\n<image1>", ["(A)", "(B)", "(C)"], "C"),
            mathvision("Which cannot be cut out?\n<image1>\n<image2>", ["$10^{\\circ}$", "$15^{\\circ}$"], "B"),
            mathvision("Which graph?", ["<image1>", "<image2>"], "A"),
            mathvision("Which side?\n<image1>", [], "C"),
            mathvision("What ratio?\n<image1>", [], "\frac{36}{13}"),
        ],
        [
            Expected("Which number?\n<image>", "60", ("\\boxed{60}",), ("\\boxed{6}",)),
            Expected(
                "Which kite?\n<image>\n\nThe options are A, B and C in the image.", "C", ("\\boxed{C}",), ("\\boxed{B}",)
            ),
            Expected(
                "Which cannot be cut out?\nimage 1\nimage 2\n\nA) $10^{\\circ}$\nB) $15^{\\circ}$", "B", ("\\boxed{B}",),
                ("\\boxed{15}",),
            ),
            Expected("Which graph?\n\nA) image 1\nB) image 2", "A", ("\\boxed{A}",), ("\\boxed{B}",)),
            Expected("Which side?\n<image>", "C", ("\\boxed{C}",), ("\\boxed{A}",)),
            Expected("What ratio?\n<image>", "\\frac{36}{13}", ("\\boxed{36/13}",), ("\\boxed{13/36}",)),
        ],
    ),
    "mmmu": Case(
        "MMMU/MMMU", MMMU_SUBJECTS, "validation",
        {"id": TEXT, "question": TEXT, "options": TEXT, "explanation": TEXT,
         **{f"image_{n}": Image() for n in range(1, 8)}, "img_type": TEXT, "answer": TEXT, "topic_difficulty": TEXT,
         "question_type": TEXT, "subfield": TEXT},
        [
            mmmu("<image 1> What are the costs?", "['$6', '$7', \"Baxter's\"]", "B"),
            mmmu("Which is next in <image 1>?", "['<image 2>', '<image 3>']", "A", 4),
            mmmu("Is <image 3> like <image 2>? See <image 3>.", "['yes', 'no']", "B", 3),
            mmmu("Solve it.", "[]", "['24/7', '3.429']", 2),
            mmmu("<image 1> Name the part.", "[]", "C"),
            mmmu("Complete <image 1>.", "['<image 7>, <image 8>', '<image 29>, <image 30>']", "B"),
        ],
        [
            Expected(
                "What are the costs?\n\nA) $6\nB) $7\nC) Baxter's", "B", ("\\boxed{B}",), ("\\boxed{A}", "\\boxed{7}")
            ),
            Expected(
                "Which is next in <image>?\n\nA) <image>\nB) <image>", "A", ("\\boxed{A}",), ("\\boxed{B}",),
                ("red", "green", "blue"),
            ),
            Expected(
                "Is image 2 like image 1? See image 2.\n\nA) yes\nB) no", "B", ("\\boxed{B}",), ("\\boxed{no}",),
                ("green", "blue"),
            ),
            Expected(
                "Solve it.", '["24/7", "≈3.43"]', ("\\boxed{24/7}", "\\boxed{3.429}", "\\boxed{3.43}"),
                ("\\boxed{3.4}", "\\boxed{24}"), ("red", "green"),
            ),
            Expected("Name the part.", "C", ("\\boxed{C}",), ("\\boxed{A}",)),
            Expected(
                "Complete <image>.\n\nA) image 7, image 8\nB) image 29, image 30", "B", ("\\boxed{B}",), ("\\boxed{A}",)
            ),
        ],
        layouts=("{}.parquet", "{}/validation.parquet"),
    ),
    "geometry3k": Case(
        "hiyouga/geometry3k", (None,), "test",
        {"images": List(Image()), "problem": TEXT, "answer": TEXT, "id": Value("int64"), "choices": List(TEXT),
         "ground_truth": TEXT},
        [{"images": [cell("red")], "problem": "<image>Find x.", "answer": "2 \\sqrt { 221 }", "id": 7,
          "choices": ["4", "2 \\sqrt { 221 }", "6", "8"], "ground_truth": "B"}],
        [Expected("Find x.", "2 \\sqrt { 221 }", ("\\boxed{2\\sqrt{221}}",), ("\\boxed{B}",))],
        format="boxed",
        layouts=("{}.parquet", "{}/test.parquet", "geo3k/test.parquet"),
    ),
}  # fmt: skip


class VisionHub:
    """Stands in for `datasets.load_dataset`: each configuration holds the rows of a suite."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.asked: list[tuple[str, str | None, str]] = []

    def load_dataset(self, path: str, name: str | None = None, *, split: str) -> datasets.Dataset:
        self.asked.append((path, name, split))
        return self.case.table()
