"""What `benchmarks/zoo.py` compares: the world, and each method, objective and ablation with its settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

START = "tiny-signs"

WORLD = (
    'evaluation.problems={source="signs",split="validation"}',
    "evaluation.n=2",
    "evaluation.sampling={temperature=1.0,max_tokens=100}",
    'prompts.reflect="check"',
    'prompts.retry="again"',
    'prompts.critique="check"',
    'prompts.improve="again"',
    'prompts.satisfied="right"',
    'prompts.merge="{question} {candidates} again"',
    'prompts.candidate="? {candidate}"',
    'prompts.between=" "',
    'training.schedule="constant"',
    "training.warmup_updates=5",
    "checkpoint_every=1000",
    "prompts.show_reasoning=false",
)


@dataclass(frozen=True)
class Arm:
    """One way of training.

    - `title`: its name in tables.
    - `recipe`, `settings`: a shipped recipe, and what differs from it.
    - `data`: the recipe that prepares its data.
    - `teacher`: the arm whose model is the teacher of `data`; "start" is the start model.
    - `of`: the arm that it is an ablation of.
    - `cold`: the recipe of a cold start on its data, at the recipe's learning rate.
    - `is_method`: whether it is a method, not an objective.
    - `judged`: the strategy whose answers choose the learning rate, besides first answers.
    - `trained`: the strategy whose answers it trains, if it is another.
    - `rate`: the learning rate of an ablation, if it is not that of `of`.
    - `is_long`: whether an ablation is trained with the new seeds, until the last mark.
    """

    title: str
    recipe: str
    settings: tuple[str, ...] = ()
    data: str = ""
    teacher: str = ""
    of: str = ""
    cold: str = ""
    is_method: bool = True
    judged: str = "refine"
    trained: str = ""
    rate: float = 0.0
    is_long: bool = False


GOLD_VERDICTS = ('method.if_right="right again"', 'method.if_wrong="wrong again"')
FIXED_TEACHER = ("training.reference_every=0", "training.reference_mixup=1.0")
CENTERED = ('method.solve.advantage="center"', "method.solve.pass_k=0")
JUDGED = {
    "pag": "self-refine",
    "self-verification": "self-refine",
    "reflect-retry-reward": "reflect",
    "learn-to-merge": "merge:3",
}
"""The strategies of methods that train another kind of final answer than refinements."""
AFTER_A_CHECK = ("rltf", "erl")
"""Methods that train second tries after a check. Their rates were chosen by plain refinements, before that was seen."""

OBJECTIVES = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "rloo")
ARMS: dict[str, Arm] = {
    "grpo": Arm("GRPO", "demo-grpo-signs"),
    "think-twice": Arm("ThinkTwice", "demo-think-twice-signs"),
}
for _name, _title in (
    ("score", "SCoRe"),
    ("pag", "PAG"),
    ("self-verification", "self-verification"),
    ("rltf", "RLTF-SD"),
    ("erl", "ERL"),
    ("critique-grpo", "Critique-GRPO"),
    ("vl-rethinker", "VL-Rethinker"),
    ("think-tuning", "ThinkTuning"),
    ("reflect-retry-reward", "Reflect, Retry, Reward"),
    ("self-distillation", "self-distillation"),
    ("learn-to-merge", "learning to merge"),
):
    _trained = "reflect" if _name in AFTER_A_CHECK else ""
    ARMS[_name] = Arm(_title, f"demo-{_name}", judged=JUDGED.get(_name, "refine"), trained=_trained)
ARMS["ton"] = Arm("TON", "demo-ton", data="demo-ton-data", cold="demo-ton-start")
ARMS["gsr"] = Arm("GSR", "demo-gsr", data="demo-gsr-data", teacher="grpo", judged="merge:3")
ARMS["supercorrect"] = Arm("SuperCorrect", "demo-supercorrect", data="demo-supercorrect-data", teacher="grpo")
for _name in OBJECTIVES:
    ARMS[f"objective-{_name}"] = Arm(
        f"objective {_name}", "demo-grpo-signs", (f"method.objective={_name}",), is_method=False
    )
for _name, _title, _of, _settings in (
    ("grpo-100", "GRPO with room for 100 tokens", "grpo", ("sampling.max_tokens=100",)),
    ("gold-verdicts", "ThinkTwice, verdicts in the prompt", "think-twice", GOLD_VERDICTS),
    ("wrong-drafts", "ThinkTwice, wrong drafts first", "think-twice", ("method.pick=wrong_first",)),
    ("right-drafts", "ThinkTwice, right drafts first", "think-twice", ("method.pick=right_first",)),
    ("score-one-stage", "SCoRe without the first stage", "score", ("method.n_first_stage=0",)),
    ("score-no-bonus", "SCoRe without the bonus", "score", ("method.alpha=0",)),
    ("score-alone", "SCoRe without both", "score", ("method.n_first_stage=0", "method.alpha=0")),
    ("pag-revise-all", "PAG, revising everything", "pag", ("method.revise_all=true",)),
    ("vl-rethinker-no-replay", "VL-Rethinker without replay", "vl-rethinker", ("method.replay.updates=0",)),
    ("vl-rethinker-no-forcing", "VL-Rethinker without forcing", "vl-rethinker", ("method.rethink.share=0",)),
    ("think-tuning-alone", "ThinkTuning without feedback", "think-tuning", ("method.n_guided=0",)),
    ("reward-retry", "Reflect, Retry, Reward: retries too", "reflect-retry-reward", ("method.reward_retry=true",)),
    ("shuffled", "Reflect, Retry, Reward: shuffled reflections", "reflect-retry-reward", ("method.shuffle=true",)),
    ("rltf-alone", "RLTF without imitation", "rltf", ("method.imitation_coef=0",)),
    ("merge-centered", "learning to merge, no pass@k", "learn-to-merge", CENTERED),
    ("self-distillation-mixed", "self-distillation with GRPO", "self-distillation", ("method.lam=0.9",)),
    ("self-distillation-fixed", "self-distillation, fixed teacher", "self-distillation", FIXED_TEACHER),
    ("ton-no-dropout", "TON without dropout", "ton", ("method.dropout=0",)),
    ("gsr-direct", "GSR, direct answers only", "gsr", ("method.lam=1",)),
    ("gsr-no-teacher", "GSR without a teacher", "gsr", ()),
):
    _of_arm = ARMS[_of]
    ARMS[_name] = replace(_of_arm, title=_title, settings=(*_of_arm.settings, *_settings), of=_of)
ARMS["gsr-no-teacher"] = replace(ARMS["gsr-no-teacher"], teacher="start")
ARMS["self-distillation-fixed"] = replace(ARMS["self-distillation-fixed"], is_long=True)
for _name in ("grpo", "rloo"):  # The other objectives have this rate.
    _of_arm = ARMS[f"objective-{_name}"]
    ARMS[f"objective-{_name}-slow"] = replace(
        _of_arm, title=f"objective {_name}, lr 5e-5", of=f"objective-{_name}", rate=5e-5
    )
"""The arms by name. A teacher is before its pupils, and a method before its ablations."""
