"""Answers that checks of reasoning-gym would evaluate as Python: what may reach these checks.

    readable("countdown", "__import__('os').getcwd()")  ->  False

The checks of four tasks call `eval`. Their modules get Python's reader of literals in its place. Five others have sympy
parse the answer, which evaluates it too. Such an answer reaches the check only if it is a formula: numbers, names, the
signs + - * / **, brackets, and calls of the functions below.
"""

from __future__ import annotations

import ast
import importlib
import re

_CALL_EVAL = {
    "binary_matrix": "reasoning_gym.algorithmic.binary_matrix",
    "n_queens": "reasoning_gym.games.n_queens",
    "spiral_matrix": "reasoning_gym.algorithmic.spiral_matrix",
    "string_insertion": "reasoning_gym.algorithmic.string_insertion",
}
_PARSE_WITH_SYMPY = (
    "countdown",
    "puzzle24",
    "simple_integration",
    "intermediate_integration",
    "polynomial_multiplication",
)
EVALUATED = (*_CALL_EVAL, *_PARSE_WITH_SYMPY)
"""The tasks whose checks evaluate answers."""
FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """sin cos tan cot sec csc asin acos atan acot sinh cosh tanh asinh acosh atanh exp log ln sqrt Abs erf erfi gamma
        Si Ci Ei li factorial""",
    )
)
"""`Integral` is not among them: an integral that is only written down has the right derivative, but is no answer."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_SIGNS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub)
MAX_DIGITS = 40


def disarm(task: str) -> None:
    """Replace `eval` in the module with the task's check, if it has one, by a reader of literals."""
    if task in _CALL_EVAL:
        setattr(importlib.import_module(_CALL_EVAL[task]), "eval", ast.literal_eval)  # noqa: B010


def readable(task: str, answer: str) -> bool:
    """Return whether the task's check may read the answer."""
    return task not in _PARSE_WITH_SYMPY or is_formula(answer)


def is_formula(text: str) -> bool:
    """Return whether the text is a formula of numbers, names, signs and known functions, and nothing else."""
    if not text.isascii() or "#" in text:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return all(_is_allowed(node) for node in ast.walk(tree.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_allowed(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS and not node.keywords
    if isinstance(node, ast.Name):
        return _NAME.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, float) and len(str(node.value)) <= MAX_DIGITS
    return isinstance(node, (ast.BinOp, ast.UnaryOp, ast.Load, *_SIGNS))
