"""The letter of an option in a box or in a statement: "Answer: C", "Option C is correct", a last line "C) Paris"."""

from __future__ import annotations

import re
import string
from functools import partial

_DECORATION = re.compile(r"\\(?:text|math)(?:rm|bf|it|sf|tt)?(?![a-z])|\\[()\[\],;:! ]|[\s{}()\[\]*_$.:]")
_BE = r"(?:is|must\s+be|should\s+be|would\s+be)\b"
_NOUN = r"(?:option|choice|answer|letter)"
_LETTER = r"[(*_]{0,4}(?P<letter>[A-Z])(?![\w'])[)*_.]{0,4}"
_STATEMENT = re.compile(
    rf"\b(?:answer|(?:correct|right|best|final|my)\s+{_NOUN})\b[\s*_]{{0,9}}(?:{_BE}|[:=]|[-–—]\s)|\b{_NOUN}\s+is\b|\bans\.?\s*[:=]",
    re.IGNORECASE,
)
_CORRECT = re.compile(
    rf"(?<![\w'])(?:(?i:{_NOUN})s?\s+)?{_LETTER}\s+(?:{_BE}|(?P<several>are))"
    r"\s+(?:(?:therefore|thus|hence|clearly|indeed|the|only|most|both|our|my)\s+){0,4}"
    r"(?:(?:correct|right|best|appropriate|accurate)(?:\s+(?:one|letter))?"
    rf"(?=\s*(?:[.,;:!)*]|\Z)|\s+(?:because|since|as|and|for|{_NOUN})\b)|{_NOUN}\b)"
)
_CHOSEN = re.compile(
    rf"\b(?i:choose|pick|select|say|go\s+with)\s+(?:(?i:{_NOUN})\s+)?{_LETTER}(?=\s*(?:[.,;:!]|\Z)|\s+(?:or|and|because|since|as)\b)"
)
_MENTIONED = re.compile(
    rf"(?i:\b(?:which|this|that|it)(?:'s|\s+is)|\bcorresponds\s+to|\bmatch(?:es)?|\()\s*(?i:{_NOUN})\s+{_LETTER}"
)
_CONCLUDED = re.compile(
    rf"\b(?i:so|thus|therefore|hence|it's|it\s+(?:is|must\s+be))[,:]?\s+(?:(?i:the\s+)?(?i:{_NOUN})\s+)?{_LETTER}\s*!?\Z"
)
_BEFORE = re.compile(rf"[A-Z][)*]{{0,3}}\s*(?:[,/&+]|,?\s*\b(?:and|or|nor)\b)\s*(?:(?i:{_NOUN})\s+)?\Z")
"""What comes before the second letter of "A or B is correct"."""
_SUPPOSED = re.compile(
    r"\b(?:if|whether|(?<!\bI )(?<!\bI'd )(?<!\bI'll )(?<!\bI would )(?:assum(?:e|ing)|suppos(?:e|ing)))"
    r"\s+(?:that\s+)?(?:the\s+|my\s+)?\Z",
    re.IGNORECASE,
)
"""What comes before a statement that is only supposed: "If the answer is B, then". "I suppose the answer is B" is one."""
_WORD = re.compile(r"[^\W_]+|[,;/&+|]")
_LABEL = re.compile(r"(?:^|(?<=[\s(*]))([A-Z])\)")
_ANY_LABEL = re.compile(r"(?:^|(?<=[\s(*]))([A-Z])[.):]")
_FIRST_LABEL = re.compile(
    rf"\s*(?:(?i:the\s+)?(?i:{_NOUN})\b[\s:=]*(?i:is\b)?)?[\s(*]*([A-Z])(?:\s*[.):]|\s*\*\*|\s*\Z|\s+[-–—]\s|\s{{3}})"
)
_SKIPPED = {
    "option",
    "choice",
    "letter",
    "answer",
    "therefore",
    "thus",
    "hence",
    "clearly",
    "definitely",
    "most",
    "likely",
}
_NEGATIONS = {"not", "none", "neither", "either"}
_CONJUNCTIONS = {",", ";", "/", "&", "+", "|", "and", "to", "through"}


def bare_letter(text: str) -> str:
    """Return the letter in a text like "(C)", "C.", "**C**" or "\\text{C}", as a capital; "" if it holds anything else."""
    bare = _DECORATION.sub("", text) if len(text) <= 40 else ""
    return bare.upper() if len(bare) == 1 and bare in string.ascii_letters else ""


def labeled_letters(text: str) -> set[str]:
    """Return the letter that labels the text of an option, as in "C. carbon" or "Option C"; more for several options."""
    line = re.sub(r"\\(?:text|math)[a-z]{0,2}(?![a-z])|\\[ ,;:!]|[{}$~]", " ", text[:500])
    found = _FIRST_LABEL.match(line)
    return {found[1]} | _other_letters(_WORD.findall(line[found.end() :]), [line]) if found else set()


def stated_letters(text: str) -> set[str]:
    """Return the letters that a text gives as its answer; more than one if it names several there."""
    last = _letters_on_last_lines(text)
    if last:
        return last
    found = _answers(text)
    if not found:
        return _concluded_letters(text)
    position, letters = max(found, key=lambda answer: answer[0])
    denied = rf"(?<![\w']){'|'.join(letters)}[)*_]{{0,3}}\s+(?:is|was)\s+(?:not|in|wrong|false)"
    return set() if len(letters) == 1 and re.search(denied, text[position + 1 :]) else letters


def _answers(text: str) -> list[tuple[int, set[str]]]:
    """Return the position and the letters of each place that states an answer."""
    found: list[tuple[int, set[str]]] = []
    for statement in filter(partial(_is_meant, text), _STATEMENT.finditer(text)):
        letters = _letters_after(text[statement.end() : statement.end() + 500])
        if letters is not None:
            found.append((statement.start(), letters))
    for statement in filter(partial(_is_meant, text), (*_CORRECT.finditer(text), *_CHOSEN.finditer(text))):
        start = statement.start("letter")
        rest = text[statement.end("letter") : statement.end("letter") + 200].split("\n")[0]
        letters = {statement["letter"]} | _other_letters(_WORD.findall(rest), [rest])
        before = text[max(start - 40, 0) : start].rstrip("(*_")
        if _BEFORE.search(before) or statement.groupdict().get("several"):
            letters.add("or")
        found.append((start, letters))
    return found


def _is_meant(text: str, statement: re.Match[str]) -> bool:
    """Return whether a statement is not only supposed."""
    return not _SUPPOSED.search(text[max(statement.start() - 40, 0) : statement.start()])


def _letters_on_last_lines(text: str) -> set[str]:
    """Return the letters that are alone on the last line, and on the lines right before it."""
    found: set[str] = set()
    for line in reversed(text.split("\n")):
        if line.strip():
            letter = bare_letter(line.strip())
            if not letter or letter not in line:  # a lower-case letter is a word or a unit
                break
            found.add(letter)
    return found


def _letters_after(text: str) -> set[str] | None:
    """Return the letters after "answer is" or "answer:"; none of them after "not", and None if no letter follows."""
    lines = text.split("\n")
    while lines and not lines[0].strip(" *:_$"):
        lines = lines[1:]
    words = _WORD.findall(_DECORATION.sub(" ", lines[0])) if lines else []
    while words and words[0].lower() in _SKIPPED:
        words = words[1:]
    if words and words[0].lower() in _NEGATIONS:
        return set()
    if words and _is_letter(words[0]) and not (words[0] == "I" and words[1:] and words[1].islower()):
        return {words[0]} | _other_letters(words[1:], lines)
    return None


def _other_letters(words: list[str], lines: list[str]) -> set[str]:
    """Return the other letters of a statement: "or B", ", B", "A B C D", "A) this B) that", or a list on several lines."""
    line, below = lines[0].strip(), "".join(lines[1:2]).strip(" (*")
    found = set(_LABEL.findall(line))
    if len(labels := set(_ANY_LABEL.findall(line))) > 2:  # two may be "C) E. coli"
        found |= labels
    if _ANY_LABEL.match(below) or bare_letter(below):
        found.add(below[0])
    if words and (words[0].lower() == "or" or all(map(_is_letter, words))):
        found |= {"or", *words}
    elif len(words) > 1 and words[0].lower() in _CONJUNCTIONS and _is_letter(words[1]):
        found.add(words[1])
    return found


def _concluded_letters(text: str) -> set[str]:
    """Return the letter that a text ends with, without the word answer: "So it is option C", "Hence C.", "C) Paris"."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    last, before = (lines[-1], "".join(lines[-2:-1])) if lines else ("", "")
    concluded = _CONCLUDED.search(last)
    if concluded:
        return {concluded["letter"]}
    if _ANY_LABEL.match(last.lstrip("(*")) and not _ANY_LABEL.match(before.lstrip("(*")):
        return labeled_letters(last)
    return {found["letter"] for found in _MENTIONED.finditer(last)}


def _is_letter(word: str) -> bool:
    return len(word) == 1 and word in string.ascii_uppercase
