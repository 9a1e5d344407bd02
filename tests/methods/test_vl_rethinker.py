"""VL-Rethinker: the order of rethinking, baseline and replay, the masks of its losses, and that GRPO is what is left."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from rethink.methods.grpo import GRPO
from rethink.methods.vl_rethinker import VLRethinker
from rethink.methods.vl_rethinker_forced_rethinking import Rethinking
from rethink.methods.vl_rethinker_replay import Replay
from rethink.models.language_model import LanguageModel
from rethink.objectives import Clip, Imitate, PolicyGradient, Update
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.training.losses.clip import clipped_surrogate
from rethink.types import Problem, Prompt
from support.method_runs import PROBLEMS, Script, SkippingPolicy, make_problem, run_batch
from support.runs import OFF_POLICY, Make, assert_resumes, make, problems, records
from support.samples import apply, as_sampled, make_trainer, reply_of

__all__ = ["make", "problems"]

TEXTS = Prompts("{question}", seed=5)
FORCED = Rethinking(share=1.0, cut=0.0, triggers=("wait now",), min_tokens=1)
NO_FORCING = Rethinking(share=0.0)
NO_REPLAY = Replay(updates=0)


def one_right(prompt: Prompt, index: int, version: int) -> str:
    """The first of the replies to a problem is right. A continuation is right for replies with an even index."""
    is_right = index % 2 == 0 if prompt.phase == "extend" else index == 0
    return f"so {prompt.problem.gold if is_right else 'no'}"


def run(
    method: VLRethinker, script: Script = one_right, problems: Sequence[Problem] = PROBLEMS,
    state: dict[str, Any] | None = None, version: int = 0,
) -> Update:  # fmt: skip
    policy = FakePolicy(script)
    policy.publish(version)
    (update,) = run_batch(method, policy, replace(TEXTS, seed=version), problems, state=state)
    return update


def parts_of(update: Update) -> tuple[PolicyGradient, Imitate]:
    gradient, imitated = update.parts
    assert isinstance(gradient, PolicyGradient)
    assert isinstance(imitated, Imitate)
    return gradient, imitated


def test_kept_continuations_replace_replies_before_the_baseline() -> None:
    """Guards against the order of replacement and baseline. Rewards 1,0,0,0 have A = 0.75 and -0.25; reply 2 ends right
    after its trigger, so the rewards are 1,0,1,0 and A = 0.5, -0.5. Reply 0 was right and stays right."""
    update = run(VLRethinker(n_solve=4, rethink=FORCED, replay=NO_REPLAY))
    gradient, _ = parts_of(update)
    assert gradient.advantages == (0.5, -0.5, 0.5, -0.5) * 7
    assert [s.text for s in gradient.samples[:4]] == ["so 0 wait now so 0", "so no", "so no wait now so 0", "so no"]
    assert [[s.index for s in group] for group in update.groups] == [[0, 1, 2, 3]] * 7
    plain, _ = parts_of(run(VLRethinker(n_solve=4, rethink=NO_FORCING, replay=NO_REPLAY)))
    assert plain.advantages == (0.75, -0.25, -0.25, -0.25) * 7


def test_the_masks_of_both_losses() -> None:
    """Guards against a gradient on tokens that the policy did not choose, and imitation of the first, perhaps wrong,
    answer. "so no" "wait now" "so 0 <end>": the policy gradient trains 2 + 3 tokens, imitation 2 + 3 others."""
    gradient, imitated = parts_of(run(VLRethinker(n_solve=4, rethink=FORCED)))
    assert gradient.samples[2].mask == (True, True, False, False, True, True, True)
    assert gradient.samples[1].mask == (True, True, True)
    assert {sample.mask for sample in imitated.samples} == {(False, False, True, True, True, True, True)}
    assert [s.index for s in imitated.samples] == [0, 2] * 7
    assert (imitated.weights, imitated.coefficient) == ((1.0,) * 14, 0.05)
    assert gradient.samples[2].ids == imitated.samples[1].ids


def test_the_coefficient_of_imitation_does_not_depend_on_the_policy_gradient(qwen: LanguageModel) -> None:
    """Guards against a shared denominator, and 0/0 without kept continuations: a mean NLL of x gives 0.05 x."""
    trainer = make_trainer(qwen)
    replies = [as_sampled(qwen.module, reply_of(n, group=f"g{n}")) for n in (5, 7)]
    n_tokens = sum(len(s.ids) for s in replies)
    nll = -sum(sum(s.log_probs) for s in replies) / n_tokens
    gradient = PolicyGradient((as_sampled(qwen.module, reply_of(3)),), (0.5,), Clip(0.2, 0.35))
    alone = apply(trainer, Imitate(tuple(replies), (1.0, 1.0), 0.05))["loss"]
    assert alone == pytest.approx(0.05 * nll, rel=1e-5)
    both = apply(make_trainer(qwen), gradient, Imitate(tuple(replies), (1.0, 1.0), 0.05))["loss"]
    assert both == pytest.approx(0.05 * nll - 0.5, rel=1e-5)
    assert apply(make_trainer(qwen), gradient, Imitate((), (), 0.05))["loss"] == pytest.approx(-0.5, rel=1e-5)


def test_the_clip_of_the_release() -> None:
    """Guards against other bounds: rho 1.3 and 1.5 with A = 1 lose 1.3 and 1.35, rho 0.7 with A = -1 loses 0.8."""
    gradient, _ = parts_of(run(VLRethinker()))
    assert gradient.surrogate == Clip(0.2, 0.35, None)
    log_ratios = torch.tensor([1.3, 1.5, 0.7], dtype=torch.float64).log()
    tokens = clipped_surrogate(log_ratios, torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64), Clip(0.2, 0.35, None))
    assert tokens.loss_T.tolist() == pytest.approx([-1.3, -1.35, 0.8])


def useful_for(n: int, right: int = 4) -> Script:
    """Groups of the first n problems have both right and wrong replies, all others none."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        is_useful = int(prompt.problem.id.removeprefix("p")) < n
        return f"{version} {index} {prompt.problem.gold if is_useful and index < right else 'no'}"

    return script


def test_replay_fills_the_batch() -> None:
    """Guards against a batch that is larger or smaller than what was sampled. 64 groups, 20 useful: 160 samples."""
    problems = [make_problem(n) for n in range(64)]
    method = VLRethinker(rethink=NO_FORCING)
    state: dict[str, Any] = {}
    first = run(method, useful_for(20), problems, state)
    assert len(parts_of(first)[0].samples) == 160
    assert (first.on_policy, first.metrics["n_replayed"], first.metrics["useful_frac"]) == (True, 0, 160 / 512)
    second = run(method, useful_for(20), problems, state, version=1)
    assert len(parts_of(second)[0].samples) == 320, "the buffer holds 160"
    third = run(method, useful_for(50), problems, state, version=2)
    gradient, _ = parts_of(third)
    assert len(gradient.samples) == 512
    old = [s for s in gradient.samples if s.version < 2]
    assert len(old) == 512 - 400
    assert len({s.key for s in gradient.samples}) == 512, "drawn without replacement"
    assert (third.on_policy, third.metrics["n_replayed"]) == (False, 112)
    assert third.metrics["replayed_age_updates"] == sum(2 - s.version for s in old) / 112
    assert {s.version for group in third.groups for s in group} == {2}, "replayed samples are not counted again"
    full = run(method, useful_for(64), problems, state, version=3)
    assert (full.on_policy, full.metrics["n_replayed"]) == (True, 0)
    assert math.isnan(full.metrics["replayed_age_updates"])


def test_replayed_samples_are_what_they_were() -> None:
    """Guards against advantages and log-probs that are computed again, and a trigger that is trained on replay."""
    method = VLRethinker(n_solve=4, rethink=FORCED)
    state: dict[str, Any] = {}
    before = parts_of(run(method, problems=PROBLEMS, state=state))[0]
    wanted = dict(
        zip([s.key for s in before.samples], zip(before.samples, before.advantages, strict=True), strict=True)
    )
    nothing = run(method, useful_for(0), state=json.loads(json.dumps(state)), version=1)
    after = parts_of(nothing)[0]
    assert {s.key for s in after.samples} == {s.key for s in before.samples}
    for sample, advantage in zip(after.samples, after.advantages, strict=True):
        original, original_advantage = wanted[sample.key]
        assert advantage == original_advantage
        assert (sample.ids, sample.mask, sample.version) == (original.ids, original.mask, 0)
        assert repr(sample.log_probs) == repr(original.log_probs)
    assert not nothing.on_policy


def test_a_resumed_run_trains_the_same_batch() -> None:
    """Guards against a buffer that is not plain data, and an order that depends on the process."""
    method = VLRethinker(n_solve=4, rethink=FORCED)
    state: dict[str, Any] = {}
    run(method, state=state)
    saved = json.loads(json.dumps(state))
    one, other = (run(method, useful_for(3, right=1), state=s, version=1) for s in (state, saved))
    for ours, theirs in zip(one.parts, other.parts, strict=True):
        assert [(s.key, s.ids, s.mask) for s in ours.samples] == [(s.key, s.ids, s.mask) for s in theirs.samples]
    assert parts_of(one)[0].advantages == parts_of(other)[0].advantages
    assert repr(state) == repr(saved)


def test_optimizer_steps_mix_old_and_new_samples() -> None:
    """Guards against last steps on replayed samples only: steps split groups in order."""
    method = VLRethinker(n_solve=4, rethink=NO_FORCING)
    state: dict[str, Any] = {}
    problems = [make_problem(n) for n in range(20)]
    run(method, useful_for(20, right=2), problems, state)
    gradient, _ = parts_of(run(method, useful_for(10, right=1), problems, state, version=1))
    versions = [s.version for s in gradient.samples]
    assert 0 in versions[: len(versions) // 2]
    assert 1 in versions[len(versions) // 2 :]


def test_without_replay_and_forcing_it_is_grpo() -> None:
    """Guards against ablations that differ from GRPO: the first batch of stage 1 has an empty buffer, too."""
    method = VLRethinker(n_solve=4, rethink=NO_FORCING)
    (grpo,) = run_batch(GRPO(n_solve=4, solve=method.solve), FakePolicy(one_right), replace(TEXTS, seed=0))
    for ablation in (method, replace(method, replay=NO_REPLAY), replace(method, rethink=replace(FORCED, after=1))):
        update = run(ablation)
        assert update.parts == (*grpo.parts, Imitate((), (), 0.05))
        assert (update.groups, update.n_steps, update.on_policy) == (grpo.groups, 1, True)


def test_what_is_logged_about_rethinking() -> None:
    """Guards against rates over all replies: of 21 wrong ones, 7 end right; of 7 right ones, none ends wrong."""
    metrics = run(VLRethinker(n_solve=4, rethink=FORCED)).metrics
    assert (metrics["n_rethought"], metrics["n_kept"], metrics["n_wrong_replaced"]) == (28, 14, 7)
    assert (metrics["rethink_fix"], metrics["rethink_damage"]) == (1 / 3, 0.0)
    off = run(VLRethinker(n_solve=4, rethink=NO_FORCING)).metrics
    assert (off["n_rethought"], off["n_kept"]) == (0, 0)
    assert math.isnan(off["rethink_fix"])


def test_ungraded_and_skipped_replies() -> None:
    """Guards against a trigger behind replies that were not graded, and against room for replies that are not there."""
    ungraded = run(VLRethinker(n_solve=4, rethink=FORCED), lambda prompt, index, version: "?")
    assert [part.samples for part in ungraded.parts] == [(), ()]
    policy = SkippingPolicy(one_right, lambda prompt: prompt.problem.id != "p3")
    (update,) = run_batch(VLRethinker(n_solve=4, rethink=FORCED), policy, TEXTS)
    assert {s.problem.id for part in update.parts for s in part.samples} == {"p3"}
    (empty,) = run_batch(VLRethinker(), SkippingPolicy(one_right, lambda prompt: True), TEXTS)
    assert [part.samples for part in empty.parts] == [(), ()]
    assert empty.metrics["useful_frac"] == 0


def test_a_group_of_one_is_refused() -> None:
    """Guards against a baseline of a single reply."""
    with pytest.raises(ValueError, match="n_solve must be at least 2"):
        VLRethinker(n_solve=1)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(), (OFF_POLICY,)], ids=["synchronous", "off-policy"])
def test_a_run_resumes_with_its_buffer(make: Make, settings: tuple[str, ...]) -> None:
    """Guards against a buffer or continuations that are not the same after a resume."""
    rethink = "method.rethink={share = 1.0, cut = 0.0, min_tokens = 1, max_waits = 9, triggers = [' 7']}"
    texts = ("method.name=vl_rethinker", rethink, "method.replay.updates=2")
    run = assert_resumes(make, *texts, "method.n_solve=3", "problems_per_batch=7", *settings, updates=5)
    log = records(run)
    assert log[0]["method/n_replayed"] == 0
    assert sum(record["method/n_replayed"] for record in log) > 0
    versions = [row["sample"]["version"] for row in run.state["replay"]]
    assert max(versions) - min(versions) <= 2
