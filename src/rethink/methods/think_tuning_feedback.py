"""The teacher's feedback in ThinkTuning (arXiv 2508.07616): the prompt, with one example for each of four behaviors,
and the format of the answer. We wrote all texts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

from rethink.prompts import Prompts, about_all, beside_images
from rethink.types import Group, Message, Prompt, Sample

TEACHER = (
    "You are a teacher who thinks aloud. You read a question and a student's first response. Write three parts, in this "
    "order and with nothing outside the tags. <opinion>: one word, correct or incorrect. <reason>: your thoughts in the "
    "first person, as if the response were your own: what holds, or where it goes astray. <phrase>: how you go on from "
    "there, in the first person, by example, up to the right solution, ending with the final answer in the form that the "
    "question asks for."
)

ASK = "Question:\n{question}\n\nResponse:\n{response}"

NOTE = "<opinion>{}</opinion>\n<reason>{}</reason>\n<phrase>{}</phrase>"

EXAMPLES = (
    (
        "A baker fills 4 trays with 12 rolls each and sells 30 rolls. How many are left?",
        "4 trays of 12 rolls are 48 rolls. 48 - 30 = 18. \\boxed{18}",
        NOTE.format(
            "correct",
            "I multiplied trays by rolls, and took away what was sold. Both steps fit the question, and 48 - 30 is 18.",
            "Going through it once more: 4 times 12 is 48, less 30 is 18, so I am sure of it. \\boxed{18}",
        ),
    ),
    (
        "Tom has 15 marbles. He has 5 fewer than Ida. How many do they have together?",
        "Ida has 15 - 5 = 10 marbles. Together 15 + 10 = 25. \\boxed{25}",
        NOTE.format(
            "incorrect",
            "Wait. It is Tom who has fewer, so Ida must have more than 15. I took 5 away where I had to add it.",
            "Let me start again from what is said: Ida has 15 + 5 = 20, and together that makes 35. \\boxed{35}",
        ),
    ),
    (
        "A train leaves at 9:40 and arrives at 12:15. How many minutes is it under way?",
        "From 9:40 to 12:40 are 180 minutes, and 25 more make 205. \\boxed{205}",
        NOTE.format(
            "incorrect",
            "Something about the last step seems off. My old teacher would ask: is 12:15 before or after 12:40?",
            "It is before, so I have to take the 25 minutes away: 180 - 25 = 155. \\boxed{155}",
        ),
    ),
    (
        "A rope of 36 metres is cut into pieces of 4 metres. How many cuts are needed?",
        "36 / 4 = 9 pieces, one cut fewer, I guess. 8. \\boxed{8}",
        NOTE.format(
            "correct",
            "The answer is right, but I guessed the part that matters. A guess is not a reason.",
            "So, with care: each cut adds one piece, and I begin with one; 9 pieces need 9 - 1 = 8 cuts. I will say why "
            "each time. \\boxed{8}",
        ),
    ),
)
"""The four behaviors in the paper's order: self-agreement, self-conflict, self-consultation, self-critique."""

_FEEDBACK = re.compile(
    r"\s*<opinion>(correct|incorrect)</opinion>\s*<reason>(.+?)</reason>\s*<phrase>(.+?)</phrase>\s*", re.DOTALL
)
_TAG = re.compile(r"</?(opinion|reason|phrase)\b")


def teacher_prompt(prompts: Prompts, sample: Sample, style: Literal["tags", "again"]) -> Prompt:
    """Return the prompt that asks the teacher for feedback on a reply."""
    (refine,) = prompts.ask_to_refine([sample])
    if style == "again":
        return replace(refine, phase="teach")
    turns = [Message("system", TEACHER)]
    for question, response, note in EXAMPLES:
        turns += [Message("user", _asked(question, response)), Message("assistant", note)]
    problem = sample.problem
    turns.append(about_all(problem, _asked(problem.transcript, beside_images(problem, sample.text))))
    return replace(refine, phase="teach", messages=tuple(turns))


def parse_feedback(note: Group, style: Literal["tags", "again"], separator: str) -> str | None:
    """Return the text to append to the student's reply. Return None if there is no feedback (the prompt was too long),
    or if it was cut or does not have the required format."""
    if not note or note[0].stop != "stop":
        return None
    text = note[0].text
    if style == "again":
        return f"{separator}{text}" if text.strip() else None
    found = _FEEDBACK.fullmatch(text)
    if found is None or any(_TAG.search(part) or not part.strip() for part in found.groups()[1:]):
        return None
    return f"{separator}{found[2].strip()}\n\n{found[3].strip()}"


def _asked(question: str, response: str) -> str:
    return ASK.format(question=question, response=response)
