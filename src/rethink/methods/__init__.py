"""Training methods, one file per paper: a frozen dataclass of settings with a generator of updates. No torch.

docs/write-your-own-method.md shows how to add one.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
from dataclasses import dataclass
from typing import Any

from rethink.errors import UserError
from rethink.methods.critique_grpo import CritiqueGRPO
from rethink.methods.erl import ERL
from rethink.methods.grpo import GRPO
from rethink.methods.gsr import GSR
from rethink.methods.imitate import Imitation
from rethink.methods.learn_to_merge import LearnToMerge
from rethink.methods.pag import PAG
from rethink.methods.reflect_retry_reward import ReflectRetryReward
from rethink.methods.rltf import RLTF
from rethink.methods.score import SCoRe
from rethink.methods.self_distillation import SelfDistillation
from rethink.methods.self_verification import SelfVerification
from rethink.methods.supercorrect import SuperCorrect
from rethink.methods.think_tuning import ThinkTuning
from rethink.methods.think_twice import ThinkTwice
from rethink.methods.ton import TON
from rethink.methods.vl_rethinker import VLRethinker
from rethink.objectives.presets import PRESETS

METHODS: dict[str, type[Any]] = {
    "grpo": GRPO,
    "think_twice": ThinkTwice,
    "reflect_retry_reward": ReflectRetryReward,
    "think_tuning": ThinkTuning,
    "gsr": GSR,
    "ton": TON,
    "supercorrect": SuperCorrect,
    "imitate": Imitation,
    "rltf": RLTF,
    "erl": ERL,
    "score": SCoRe,
    "pag": PAG,
    "self_verification": SelfVerification,
    "self_distillation": SelfDistillation,
    "vl_rethinker": VLRethinker,
    "critique_grpo": CritiqueGRPO,
    "learn_to_merge": LearnToMerge,
}


@dataclass(frozen=True)
class Needs:
    """What a method asks for: class attributes of these names (`ClassVar`), which it may leave out.

    - `later_phases`: the phases of its prompts in training besides "solve".
    - `asks_teacher`: whether it asks `actors.role("teacher")`.
    - `needs_reference`: whether its parts compare with the reference model in another way than by an objective's `kl_coef`.
    - `samples`: False if it only imitates replies of its problems: it samples nothing in training and needs no reward.
    - `uses_objective`: False if its objective "solve" has no effect with its default settings.
    """

    later_phases: tuple[str, ...] = ()
    asks_teacher: bool = False
    samples: bool = True
    needs_reference: bool = False
    uses_objective: bool = True


def needs_of(name: str) -> Needs:
    """Return what the method of this name asks for.

    >>> needs_of("think_twice")
    Needs(later_phases=('refine',), asks_teacher=False, samples=True, needs_reference=False, uses_objective=True)
    """
    method = find_method(name)
    return Needs(
        getattr(method, "later_phases", Needs.later_phases),
        getattr(method, "asks_teacher", Needs.asks_teacher),
        getattr(method, "samples", Needs.samples),
        getattr(method, "needs_reference", Needs.needs_reference),
        getattr(method, "uses_objective", Needs.uses_objective),
    )


def find_method(name: str) -> type[Any]:
    """Return the class of a method: a name in `METHODS`, or "module:Class" for a custom one. Raise UserError for
    others."""
    if name in METHODS:
        return METHODS[name]
    if name in PRESETS:
        raise UserError(f"{name} is an objective, not a method: write method.name=grpo method.objective={name}")
    module, colon, attribute = name.partition(":")
    if not module or not colon:
        for near in difflib.get_close_matches(name.lower().replace("-", "_"), METHODS, n=1):
            raise UserError(f"unknown method {name!r}; did you mean {near}?")
        raise UserError(
            f"unknown method {name!r}: use one of {', '.join(METHODS)}, or module:Class for a custom method"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, SyntaxError) as err:
        hint = ""
        if module.endswith(".py"):
            hint = f"; write {module.removesuffix('.py')}:{attribute}"
        elif isinstance(err, ModuleNotFoundError):
            hint = " in the current folder, on PYTHONPATH or among the installed packages"
        raise UserError(f"method {name!r} cannot be imported: {err}{hint}") from err
    if not (isinstance(found, type) and dataclasses.is_dataclass(found) and callable(getattr(found, "updates", None))):
        raise UserError(
            f"method {name!r} must be a dataclass (@dataclass(frozen=True)) with a generator `updates(self, actors, "
            "problems)`; see docs/write-your-own-method.md"
        )
    return found
