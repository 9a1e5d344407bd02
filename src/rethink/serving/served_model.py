"""The model behind the server: its names, and what a request asks of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rethink.errors import UserError
from rethink.policies.base import Policy
from rethink.policies.cancel import Cancellation
from rethink.problems.answer_format import read_after
from rethink.problems.question import as_problem, source_of_answers
from rethink.prompts import Prompts
from rethink.serving.api_error import ApiError
from rethink.serving.chat_request import ChatRequest
from rethink.serving.limits import Limits
from rethink.serving.passes import n_samples
from rethink.settings import AnswerSettings, ProblemSource
from rethink.strategies import Setup, Strategy, check_needs, parse
from rethink.types import Problem

OpenPolicy = Callable[[Cancellation, Sequence[str]], Policy]
"""Open a policy for one thread: its calls may be cancelled, and may stop early at stop strings."""

LISTED = ("refine", "vote:5")
"""Strategies that the list of models shows, beside the server's default."""

MAX_NAME = 200


@dataclass(frozen=True)
class ServedModel:
    """A model with its settings.

    `strategy` answers requests that name no model. `make_prompts` takes a seed. `source` says in which form answers are
    asked for (None: in no form, unless a strategy has to compare them). `open_judge` opens the judge of "best", if there is
    one. `is_remote`: the model runs at an endpoint, so what fails there is not the client's fault.
    `has_stopped` says whether the sampler has failed for good."""

    name: str
    strategy: str
    settings: AnswerSettings
    open_policy: OpenPolicy
    make_prompts: Callable[[int], Prompts]
    source: ProblemSource | None = None
    thinking: tuple[str, ...] = ()
    open_judge: OpenPolicy | None = None
    is_remote: bool = False
    has_stopped: Callable[[], bool] = lambda: False

    @property
    def names(self) -> list[str]:
        """The models that are listed: the default strategy first. Any other strategy can be named, too."""
        default = self.name if self.strategy == "solve" else f"{self.name}+{self.strategy}"
        return list(dict.fromkeys([default, self.name, *(f"{self.name}+{text}" for text in LISTED)]))

    def find_strategy(self, model: str | None, n: int, limits: Limits) -> Strategy:
        """Return the strategy that a model's name asks for. Raise ApiError if it cannot be run here."""
        text = self.strategy
        if model is not None:
            name, plus, text = model[:MAX_NAME].partition(f"{self.name}+")
            if model == self.name:
                text = "solve"
            elif name or not plus or len(model) > MAX_NAME:
                known = ", ".join(self.names)
                message = f"there is no model {model[:MAX_NAME]!r}; there are {known}, and {self.name}+STRATEGY"
                raise ApiError(404, message, "model", code="model_not_found")
        try:
            strategy = parse(text)
        except UserError as err:
            raise ApiError(400, str(err), "model") from err
        self._check(strategy, n, limits)
        return strategy

    def _check(self, strategy: Strategy, n: int, limits: Limits) -> None:
        if "verifier" in strategy.needs:
            message = f"{strategy.name} needs to know which answers are wrong, but a request has no gold answer"
            raise ApiError(400, message, "model")
        total = n * n_samples(strategy)
        if total > limits.max_samples:
            message = (
                f"{strategy.name} with n={n} may draw {total} replies, more than this server's {limits.max_samples}"
            )
            raise ApiError(400, message, "model")
        try:
            check_needs([strategy], [self._problem("", strategy)], self.open_judge is not None)
        except UserError as err:
            raise ApiError(400, str(err), "model") from err

    def problem(self, request: ChatRequest, strategy: Strategy) -> Problem:
        """Return the last turn as a problem, after the turns before it."""
        problem = self._problem(request.question.content, strategy, request)
        return replace(problem, images=request.question.images)

    def _problem(self, question: str, strategy: Strategy, request: ChatRequest | None = None) -> Problem:
        source = source_of_answers(self.source, "comparable answers" in strategy.needs)
        problem = as_problem(question, source, earlier=request.earlier if request else ())
        return read_after([problem], self.thinking)[0]

    def setup(
        self, request: ChatRequest, strategy: Strategy, prompts: Prompts, limits: Limits, cancellation: Cancellation
    ) -> Setup:
        """Return what the strategy needs for one choice. Sampling settings of the request are for all passes."""
        sampling = request.sampling(self.settings.sampling, limits)
        refine = self.settings.refine_sampling
        judge = None
        if "judge" in strategy.needs and self.open_judge is not None:
            judge = self.open_judge(cancellation, ())
        return Setup(
            self.open_policy(cancellation, request.stop),
            prompts,
            sampling,
            request.sampling(refine, limits) if refine else None,
            judge,
        )
