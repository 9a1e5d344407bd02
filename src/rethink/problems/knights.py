"""Knights and knaves (R. Smullyan, "What Is the Name of This Book?", 1978): who always tells the truth, who always lies?

    question  On an island, each person is either a knight, who always tells the truth, or ... You meet Ann and Bob.
              Ann says: "I am a knave or Bob is a knight."
              Bob claims: "It is not true that Ann is a knight if and only if I am a knight." ...
    gold      Ann is a knight, Bob is a knave
    reply     <answer>Ann is a knight, Bob is a knave</answer>

Each person makes one statement: somebody's role, or two such joined by and, or, if-then, if-and-only-if, and perhaps
negated as a whole. All 2^n assignments are tried, and only puzzles with exactly one solution are kept (as in arXiv
2410.23123, which has a similar grammar).

A puzzle's split is a hash of what is said, not of how: a puzzle with other names, people in another order, or statements
in other words of the same meaning ("not a knave", "and" the other way round) is always in the same split. Two people
allow few puzzles that differ in more than that (some 20), three already thousands.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rethink.errors import UserError
from rethink.problems.form import Columns, Form, Row, read_question_and_answer
from rethink.problems.grading.extract import after_thinking, answer_tag
from rethink.seeds import rng, stable_hash
from rethink.types import Problem, Verdict

SOLVE = (
    "{question}\n\nReason step by step. Then state the role of each person once, and nothing else, between answer tags, "
    "for example <answer>Ann is a knight, Bob is a knave</answer>."
)

SPLITS = {"train": range(12), "validation": range(12, 15), "test": range(15, 20)}
PEOPLE = range(2, 9)
NAMES = (
    "Ann Bob Carl Dora Emil Fay Gus Hana Ivo June Karl Lena Max Nora Otto Pia Quin Rosa Sam Tess Uri Vera Walt Xenia"
).split()
VERBS = ("says", "claims", "states")
MAX_DRAWS = 500
"""Draws per wanted problem before the generator gives up; with three people and more it needs about 30."""

OPERATIONS = {"and": 0b0001, "or": 0b0111, "if": 0b1011, "iff": 0b1001}
"""The truth table of "p ... q": from the left, for p q = 00, 01, 10, 11."""
