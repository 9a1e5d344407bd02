"""What a run needs is checked before its folder is made, and by the dry run too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.models.model_info import read_model_info
from rethink.recipe import changed_toml, load_recipe, to_toml
from rethink.training.check import check_replies, check_run
from rethink.types import Demonstration, Problem, Verdict
from support.command_line import assert_one_message, in_process

NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
NO_SYSTEM += "{{ m.content }}{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"

REFUSED = {
    "sampling.temperature=0": "full distribution, but sampling.temperature = 0: set temperature above 0",
    "sampling.top_p=0.9 sampling.top_k=5": "but sampling.top_p = 0.9, sampling.top_k = 5",
    "sampling.max_tokens=600": "sampling.max_tokens = 600 leaves no room for a prompt in the model's 128 positions",
    "evaluation.sampling.max_tokens=600": "evaluation.sampling.max_tokens = 600 leaves no room",
    "sampler.max_prompt_tokens=2": "every prompt is too long: the shortest has",
    "sampler.max_prompt_tokens=2 sampler.overlong_prompts=refuse": "tokens, over the limit of 2; raise",
    "problems_per_batch=9999": "problems_per_batch is 9999, but there are only",
    "problems.source=no.jsonl": "no.jsonl",
    "problems.split=test": "held-out problems are also training problems",
    "model.path=./nowhere": "there is no model folder ./nowhere",
    "model.template=nowhere.jinja": 'model.template is not "plain", "chatml" or a file: nowhere.jinja',
    "model.template=no_system.jinja prompts.system=Hello": "system",
    "model.device=cuda": 'model.device = "cuda", but',
    "model.dtype=bfloat16": "training.autocast",
    "model.random=true lora.rank=2": "lora.rank adapts existing weights",
    "sampler.engine=vllm sampler.urls=['http://h','http://h']": "names a server twice",
    "sampler.urls=['http://h:1']": 'sampler.urls has no effect: set sampler.engine = "vllm"',
    "training.importance_sampling_mode=none": 'has no effect: set training.old_log_probs = "recomputed"',
    "training.importance_sampling_clip_max=3": "training.importance_sampling_clip_max has no effect",
    "training.old_log_probs=recomputed training.importance_sampling_mode=none training.importance_sampling_clip_min=0.5": (
        'training.importance_sampling_clip_min has no effect: training.importance_sampling_mode is "none"'
    ),
    "training.importance_sampling_clip_min=2": "clip_min = 2 must be below importance_sampling_clip_max = 2",
    "training.old_log_probs=recomputed training.importance_sampling_mode=none async_level=1": (
        'set training.importance_sampling_mode, such as "token_truncate"'
    ),
    "training.importance_sampling_mode=sequence": '"none", "token_truncate", "token_mask", "sequence_truncate" or',
    "training.vision=all": 'training.vision = "all" has no effect: no problem has images',
    "training.vision=tower": 'training.vision must be "frozen", "projector" or "all"',
    "training.vision=all lora.rank=2": 'training.vision = "all" needs lora.rank = 0',
    "training.vision=projector sampler.engine=vllm": 'training.vision = "projector" needs sampler.engine = "local"',
    "training.vision=all async_level=1": "needs async_level = 0",
    "method.name=imitate async_level=1": "async_level has no effect: the method 'imitate' samples nothing",
    "lora.alpha=8": "lora.alpha has no effect: set lora.rank above 0",
    "teacher.path=tiny": "teacher.path has no effect: method grpo has no teacher",
    "endpoint.url=http://h:1": "endpoint.url has no effect",
    "problems.question=prompt": "problems.question has no effect: countdown makes its problems",
    "problems.gym.a=1": "problems.gym has no effect",
    "problems.right_threshold=0.5": "problems.right_threshold has no effect",
    "problems.level=3": "problems.level has no effect: only shapes uses it",
    "problems.extraction=lenient": "problems.extraction has no effect: countdown has one way to write an answer",
    "problems.verifier_sandbox=false": "problems.verifier_sandbox has no effect: only a verifier of your own",
    "problems.images=picture": "problems.images has no effect: countdown makes its problems",
    "evaluation.problems.source=own.jsonl evaluation.problems.verifier=own:check "
    "evaluation.problems.verifier_in_process=true evaluation.problems.verifier_timeout_s=3": (
        "evaluation.problems.verifier_timeout_s has no effect: verifier_in_process leaves them out"
    ),
    "teacher.dtype=bfloat16": "teacher.dtype has no effect: set teacher.path or teacher.endpoint.url",
    "judge.endpoint.url=http://h:1 judge.device=cpu": "judge.device has no effect: the model runs at judge.endpoint.url",
    "rewards.0.function=verdict rewards.0.timeout_s=3": "rewards.0.timeout_s has no effect: the term is the verdict",
    "rewards.0.function=own:x rewards.0.in_process=true rewards.0.sandbox=false": (
        "rewards.0.sandbox has no effect: a function in this process has neither limits nor a sandbox"
    ),
    "evaluation.strategy=solve evaluation.n_refine=3": "evaluation.n_refine has no effect: no strategy ends with refine",
    "evaluation.strategy=best:3": "judge",
    "method.objective=gpso": "one of grpo, dr_grpo, dapo, gspo, gmpo, cispo, sapo, rloo, and not 'gpso'",
    "method.objective=3": "sapo, rloo, and not 3",
    "method.objective.clip_low=0.1": "sapo, rloo, and not {'clip_low': 0.1}",
    "method.name=imitate method.objective=grpo": '"grpo" has no effect: Imitation has no policy gradient',
    "method.objective=gspo method.solve.surrogate=cispo": "method.solve.dual_clip has no effect: only the surrogate clip",
    "method.solve.surrogate=cispo method.solve.importance_sampling_level=sequence": (
        "method.solve.importance_sampling_level has no effect: only the surrogate clip uses it"
    ),
    "method.solve.surrogate=sapo method.solve.clip_high=0.3": (
        "method.solve.clip_high has no effect: only the surrogate clip or gmpo or cispo uses it"
    ),
    "method.solve.surrogate=gmpo method.solve.dual_clip=4": "method.solve.dual_clip has no effect",
    "method.solve.tau_neg=2": "method.solve.tau_neg has no effect: only the surrogate sapo uses it",
    "method.solve.surrogate=ppo": 'method.solve.surrogate must be "clip", "gmpo", "cispo" or "sapo"',
    "method.name=think_tuning method.objective=sapo": 'some tokens, which needs surrogate = "clip", not "sapo"',
    "method.solve.constant_length=9": "method.solve.constant_length has no effect",
    "method.name=think_tuning teacher.path=./nowhere": "there is no model folder ./nowhere",
    "rewards.0.function=nowhere:bonus": "nowhere",
    "method.name=think_tuning": "method.max_feedback_tokens = 512 leaves no room for a prompt",
    "method.n_solve=1": "method: n_solve must be at least 2, not 1",
    "method.name=nowhere.py:Mine": "; write nowhere:Mine",
    "method.solve.overlong_buffer=100": "method.solve.overlong_buffer is 100, above sampling.max_tokens (24)",
    "lora.rank=2 lora.targets=['q_proj','nope']": "lora.targets: the model has no linear layer named 'nope'",
    "method.solve.advantage=maxrl method.solve.overlong_buffer=9": "method.solve.overlong_buffer can make negative",
    "method.n_solve=1 method.solve.advantage=reinforce_pp method.solve.zero_std_groups=drop": "would drop all groups",
    "method.solve.advantage=pass_at_k": 'advantage = "pass_at_k" and pass_k, the k of pass@k, need each other',
    "method.solve.advantage=pass_at_k method.solve.pass_k=8": "n_solve must be above pass_k = 8, not 8",
    "prompts.solve={question}-{reply}": "prompts.solve would show {reply} as it is",
    "rewards.0={function=own:bonus,weight=0.2}": "the whole setting single ones",
    "out=a_file": "a_file is not a folder",
    "out=a_file/run": "a_file is not a folder",
    "out=": 'out is ""',
}


@pytest.mark.parametrize("settings", REFUSED)
def test_a_wrong_run_is_refused_before_its_folder_is_made(
    settings: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against refusals after a whole batch, and against a dry run that approves of what the run refuses."""
    (tmp_path / "no_system.jinja").write_text(NO_SYSTEM)
    (tmp_path / "a_file").write_text("")
    rethink = in_process(capsys, monkeypatch, tmp_path)
    given = ["demo-grpo", "model.device=cpu", "out=run", *settings.split()]
    if "method.name" in settings:
        given.append("prompts.refine=again")
    dry, real = rethink("train", *given, "--dry-run"), rethink("train", *given)
    assert_one_message(dry, REFUSED[settings])
    assert_one_message(real, REFUSED[settings])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_file", "no_system.jinja"]


def test_methods_that_imitate_may_set_any_sampling() -> None:
    """Guards against a refusal of settings that only the teacher of `prepare` uses."""
    imitates = ["method.name=imitate", "problems.replies.phases=['solve']", "sampling.temperature=0"]
    assert check_run(load_recipe(None, ["sampling.max_tokens=24", *imitates])).problems


def test_replies_to_imitate_must_fit(tmp_path: Path) -> None:
    """Regression: a model without positions for a given reply trained it all the same, in a way that no sampler computes,
    or failed with an index out of range in the middle of the run. The tiny model has 128 positions, and a word is a
    token."""
    whole, half = " ".join(["26"] * 119), " ".join(["26"] * 50)
    rows = {
        "reply": {"reply": f"{whole} 26 26"},
        "chosen": {"chosen": "3", "rejected": f"{whole} 26 26", "draft": "3"},
        "draft": {"reply": f"{half} 26", "draft": f"{half} {half}"},
    }
    for name, row in rows.items():
        given = [*settings_of(row), f"problems.source={tmp_path / name}.jsonl"]
        write_rows(tmp_path / f"{name}.jsonl", row)
        with pytest.raises(UserError, match=rf"reply of problem {name}\.jsonl/0 has 1\d\d tokens .* 128 positions"):
            check_run(load_recipe(None, given))
    write_rows(tmp_path / "fits.jsonl", {"reply": half})
    given = [*settings_of(rows["reply"]), f"problems.source={tmp_path / 'fits.jsonl'}"]
    assert check_run(load_recipe(None, given)).problems


def test_several_draws_of_generated_replies_must_fit() -> None:
    """Guards against a check of the first draw alone: a method asks with other seeds, and may draw a longer reply."""
    recipe = load_recipe("demo-grpo")
    info = read_model_info(recipe.model)
    assert info is not None

    def problem(longest: int) -> Problem:
        def demonstrate(seed: int) -> tuple[Demonstration, ...]:
            return (Demonstration(" ".join(["26"] * (longest if seed == 2 else 5))),)

        return Problem("p", "26", "26", lambda reply, gold: Verdict(True), demonstrate, solve="{question}")

    check_replies(recipe, [problem(50)], info)
    with pytest.raises(UserError, match=r"the solve reply of problem p has 1\d\d .* the model's 128 positions"):
        check_replies(recipe, [problem(130)], info)


def settings_of(row: dict[str, str]) -> list[str]:
    """Return the settings of a run that imitates these columns, or learns from these pairs."""
    method = ["supercorrect", "method.stage=corrections"] if "chosen" in row else ["imitate"]
    columns = [f"problems.{name}={name}" for name in row]
    return [f"method.name={method[0]}", *method[1:], *columns, "prompts.solve={question}", "prompts.refine=again"]


def write_rows(file: Path, row: dict[str, str]) -> None:
    """Write the row 32 times, as a batch needs."""
    line = json.dumps({"question": "3 7 5 -> 26", "answer": "26", **row})
    file.write_text(f"{line}\n" * 32)


@pytest.mark.parametrize("name", ["demo-grpo", "thinktwice-qwen3-4b", "demo-gsr", "rrr-qwen2.5-1.5b"])
def test_the_changed_settings_are_a_recipe(name: str, tmp_path: Path) -> None:
    """Guards against a print-out that loads as another recipe."""
    recipe = load_recipe(name, ["training.betas=[0.5, 0.9]", "seed=3"])
    (tmp_path / "changed.toml").write_text(changed_toml(recipe))
    assert to_toml(load_recipe(tmp_path / "changed.toml")) == to_toml(recipe)
    assert len(changed_toml(recipe).splitlines()) < 60
