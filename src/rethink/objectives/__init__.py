"""What an update trains: updates, their parts, surrogates, and objectives, which make parts from groups. No torch."""

from rethink.objectives.distill import Distill, Divergence
from rethink.objectives.objective import Objective, objectives_of
from rethink.objectives.parts import Advantage, Imitate, Part, PolicyGradient, Prefer
from rethink.objectives.presets import preset
from rethink.objectives.surrogates import CISPO, GMPO, SAPO, AdvantageAwareShaping, Clip, Shaping, Surrogate
from rethink.objectives.update import Update, rewards_by_group, split_into_steps

__all__ = [
    "CISPO",
    "GMPO",
    "SAPO",
    "Advantage",
    "AdvantageAwareShaping",
    "Clip",
    "Distill",
    "Divergence",
    "Imitate",
    "Objective",
    "Part",
    "PolicyGradient",
    "Prefer",
    "Shaping",
    "Surrogate",
    "Update",
    "objectives_of",
    "preset",
    "rewards_by_group",
    "split_into_steps",
]
