"""A user's function `module:function`, called in a worker that can be killed, or in this process if it asks for that."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rethink.errors import UserError
from rethink.grading.denied import DENIED
from rethink.grading.pool import user_pool
from rethink.grading.user_code import call_user_function, import_function
from rethink.types import Verdict

ALIASES = {
    **dict.fromkeys(("response", "completion", "prediction", "solution_str", "pred", "y_pred", "output"), "reply"),
    **dict.fromkeys(("ground_truth", "gold_answer", "reference", "expected", "target", "label", "y_true"), "gold"),
    **dict.fromkeys(("model_output", "generated", "generation"), "reply"),
    **dict.fromkeys(("gt", "truth", "correct_answer"), "gold"),
}
"""Other names of parameters without a default that leave no doubt, in whatever order they come."""

FOREIGN = {
    "completions": "TRL's parameters, with lists of replies: {name}([reply], answer=[gold])[0]",
    "data_sources": "verl's parameters for a batch: {name}(['my_data'], [reply], [gold], [{{}}])[0]",
    "data_source": "verl's parameters: {name}('my_data', reply, gold)",
}
"""Parameters of other libraries' functions: what they are, and how to call such a function."""


@dataclass(frozen=True)
class UserFunction:
    """A function that a recipe names, ready to be called. `parameters` maps its parameters to arguments: the first
    `n_positional` by position, the others by name. `given` holds arguments that are known before it is called.
    `sandbox_off` is the setting that takes the function out of the sandbox.
    """

    name: str
    timeout_s: float = 10.0
    memory_gib: float = 4.0
    in_process: bool = False
    right_threshold: float = 1.0
    sandbox: bool = True
    sandbox_off: str = ""
    parameters: tuple[tuple[str, str], ...] = (("reply", "reply"), ("gold", "gold"))
    n_positional: int = 2
    function: Callable[..., Any] | None = field(default=None, repr=False, compare=False)
    given: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, reply: str, gold: str, **more: Any) -> Verdict:
        """Return the function's verdict; not graded if it raises, hangs or crashes. Raise UserError if it returns something
        other than a verdict.
        """
        known = {"row": {}, **self.given, **more}
        arguments = self._arguments({**known, "reply": reply, "gold": gold})
        if self.in_process:
            assert self.function is not None
            args, kwargs, _ = arguments
            return call_user_function(self.name, self.function, args, kwargs, self.right_threshold)
        pool = user_pool(self.timeout_s, int(self.memory_gib * 2**30), self.sandbox)
        try:
            verdict = pool.ask(self.name, arguments, self._arguments({**known, "reply": gold, "gold": gold}))
        except UserError as err:
            raise UserError(self._with_setting(str(err))) from err
        return replace(verdict, reason=self._with_setting(verdict.reason))

    def _arguments(self, given: dict[str, Any]) -> list[Any]:
        args = [given[source] for _, source in self.parameters[: self.n_positional]]
        kwargs = {name: given[source] for name, source in self.parameters[self.n_positional :]}
        return [args, kwargs, self.right_threshold]

    def _with_setting(self, message: str) -> str:
        return f"{message}; set {self.sandbox_off} to allow it" if DENIED in message and self.sandbox_off else message

    @property
    def reads_row(self) -> bool:
        """Whether the function has a parameter for the problem's row."""
        return any(argument == "row" for _, argument in self.parameters)

    def with_arguments(self, **given: Any) -> UserFunction:
        """Return a copy that knows those of the arguments that it has parameters for."""
        wanted = {argument for _, argument in self.parameters}
        return replace(self, given={name: value for name, value in given.items() if name in wanted})


def find_function(
    name: str,
    known: Sequence[str] = ("reply", "gold"),
    timeout_s: float = 10.0,
    memory_gib: float = 4.0,
    in_process: bool = False,
    right_threshold: float = 1.0,
    sandbox: bool = True,
    sandbox_off: str = "",
) -> UserFunction:
    """Return the function that `module:function` names, to be called in this process if its attribute `in_process` is true,
    and outside the sandbox if its attribute `sandbox` is false.

    `known` are the available arguments, reply and gold first. A parameter with one of these names, or of `ALIASES`, gets
    that argument. Other parameters without a default get what is left of reply and gold, in order. Raise UserError if the
    function cannot be imported, is async, or has further parameters without a default.
    """
    function = import_function(name)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        call = f"asyncio.run({function.__name__}(reply, gold))"
        raise UserError(
            f"{name} is async; name a function of your own, with the parameters reply and gold, that returns {call}"
        )
    in_process = in_process or bool(getattr(function, "in_process", False))
    sandbox = sandbox and bool(getattr(function, "sandbox", True))
    found = UserFunction(
        name, timeout_s, memory_gib, in_process, right_threshold, sandbox, sandbox_off, function=function
    )
    try:
        signature = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some C functions have none
        return found
    parameters, n_positional = _assign(name, signature, known)
    return replace(found, parameters=parameters, n_positional=n_positional)


def _assign(
    name: str, signature: Mapping[str, inspect.Parameter], known: Sequence[str]
) -> tuple[tuple[tuple[str, str], ...], int]:
    """Return pairs of parameter and argument, positional ones first, and the number of positional ones."""
    named = {p.name: _argument_of(p, known) for p in signature.values()}
    unassigned = [argument for argument in ("reply", "gold") if argument not in named.values()]
    by_position: list[tuple[str, str]] = []
    by_name: list[tuple[str, str]] = []
    for parameter in signature.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            by_position += [] if by_position or by_name else [("reply", "reply"), ("gold", "gold")]
            continue
        argument = named[parameter.name]
        if not argument and parameter.default is not inspect.Parameter.empty:
            continue
        if not argument and parameter.name in FOREIGN:
            raise UserError(_how_to_call(name, parameter.name))
        if not argument and unassigned:
            argument = unassigned.pop(0)
        if not argument:
            raise UserError(f"{name} has an unknown parameter {parameter.name!r}; it may have {', '.join(known)}")
        pairs = by_position if parameter.kind is inspect.Parameter.POSITIONAL_ONLY else by_name
        pairs.append((parameter.name, argument))
    return tuple(by_position + by_name), len(by_position)


def _argument_of(parameter: inspect.Parameter, known: Sequence[str]) -> str:
    """Return the argument that a parameter asks for by its name, or ""."""
    if parameter.name in known:
        return parameter.name
    return ALIASES.get(parameter.name, "") if parameter.default is inspect.Parameter.empty else ""


def _how_to_call(name: str, parameter: str) -> str:
    foreign, call = FOREIGN[parameter].split(": ")
    call = call.format(name=name.partition(":")[2])
    return f"{name} has {foreign}; name a function of your own, with the parameters reply and gold, that returns {call}"
