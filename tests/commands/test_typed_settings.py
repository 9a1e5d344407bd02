"""Settings typed after `rethink eval`, `answer` and `cross`: they have an effect, and do not replace an argument."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.commands import answer, serve
from rethink.commands.evaluate import resolve
from rethink.commands.typed_settings import with_options
from rethink.errors import UserError
from support.command_line import Rethink, assert_one_message

REPLACED = [
    ("model.path=tiny-signs", "model.path=tiny-signs replaces MODEL (tiny): leave one of them out"),
    ("model={path='tiny-signs'}", "replaces MODEL (tiny)"),
    ("model={dtype='bfloat16'}", "replaces MODEL (tiny)"),
    ("evaluation.problems.source=gsm8k", "evaluation.problems.source=gsm8k replaces --on (countdown)"),
    ("evaluation.problems={source='gsm8k'}", "replaces --on (countdown)"),
]

WITHOUT_EFFECT = [
    ("training.lr=3", "training.lr=3 has no effect here: only `rethink train` uses it"),
    ("updates=3", "only `rethink train` uses it"),
    ("method.n_solve=3", "only `rethink train` uses it"),
    ("lora.rank=4", "only `rethink train` uses it"),
    ("rewards.0.function=verdict", "only `rethink train` uses it"),
    ("evaluation.every=3", "only `rethink train` uses it"),
    ("evaluation.at_start=true", "only `rethink train` uses it"),
    ("problems.limit=4", "problems.limit=4 has no effect here: it is for training; write evaluation.problems.limit=4"),
    ("sampling.max_tokens=24", "write evaluation.sampling.max_tokens=24"),
    ("out=runs/e", "write --out=runs/e"),
    ("endpoint.retries=0", "name the server with --endpoint URL"),
    ("evaluation.problems.question=q", "evaluation.problems.question has no effect: countdown makes its problems"),
    ("evaluation.problems.right_threshold=0.5", "only a verifier of your own"),
    ("evaluation.problems.extraction=lenient", "countdown has one way to write an answer"),
    (
        "evaluation.problems.replies.attempts=3 evaluation.problems.source=aime",
        "only countdown, signs and shapes use it",
    ),
    ("sampler.engine=vllm", "only `rethink train` runs vLLM"),
    ("sampler.concurrency=8", "only `rethink train` runs vLLM"),
    ("sampler.timeout_s=9 endpoint.url=http://h:1", "write endpoint.timeout_s"),
    ("judge.dtype=bfloat16", "judge.dtype has no effect: set judge.path or judge.endpoint.url"),
    ("model.template=chatml endpoint.url=http://h:1", "the model runs at http://h:1"),
    ("sampler.max_prompt_tokens=9 endpoint.url=http://h:1", "the model runs at http://h:1"),
]

USED = [
    "seed=3",
    "model.path=tiny",
    "model.template=chatml",
    "evaluation.n=2",
    "evaluation.problems.limit=4",
    "sampler.max_prompt_tokens=64",
    "sampler.engine=local",
    "prompts.refine=again",
    "model.thinking=['<a>','</a>'] model.device=cpu endpoint.url=http://h:1",
    "sampler.max_prompt_tokens=9 endpoint.url=http://h:1 judge.path=tiny evaluation.strategy='best:2'",
    "evaluation.problems.images=picture",
]


@pytest.mark.parametrize(("setting", "message"), [*REPLACED, *WITHOUT_EFFECT])
def test_an_evaluation_refuses_settings_that_it_would_not_follow(setting: str, message: str) -> None:
    """Guards against an evaluation of another model than the table says, and against settings that do nothing."""
    suites = [] if "problems.source=aime" in setting else ["countdown"]
    with pytest.raises(UserError) as raised:
        resolve("tiny", suites, setting.split(), "demo-think-twice")
    assert message in str(raised.value)


@pytest.mark.parametrize("setting", USED)
def test_an_evaluation_takes_settings_that_it_follows(setting: str) -> None:
    """Guards against refusing too much."""
    assert resolve("tiny", ["countdown"], setting.split(), "demo-think-twice").model.path == "tiny"


def test_drafts_say_how_many_attempts_there_are(tmp_path: Path) -> None:
    """Guards against `evaluation.n=4` that does nothing; in a recipe, it is for evaluations without drafts."""
    drafts = tmp_path / "d.jsonl"
    with pytest.raises(UserError, match=r"evaluation\.n=4 has no effect with --drafts.*evaluation\.n_refine=N"):
        resolve("tiny", [], ["evaluation.n=4"], "", drafts)
    assert resolve("tiny", [], ["evaluation.n_refine=2"], "", drafts).evaluation.n_refine == 2
    assert resolve("tiny", [], [], "thinktwice-protocol", drafts).evaluation.n > 1


def test_a_judge_samples_with_the_sampling_of_the_recipe() -> None:
    """Guards against refusing `sampling`, which only a judge uses."""
    settings = ["judge.path=tiny", "evaluation.strategy='best:2'", "sampling.max_tokens=24"]
    assert resolve("tiny", ["countdown"], settings, "demo-think-twice").sampling.max_tokens == 24


def test_an_answer_is_from_the_model_that_the_command_names() -> None:
    """Guards against `rethink answer tiny` with another model."""
    for setting in ("model.path=tiny-signs", "training.lr=3"):
        with pytest.raises(UserError, match=r"replaces MODEL|has no effect"):
            answer.resolve("tiny", "demo-think-twice", [setting])


def test_answers_and_servers_refuse_settings_of_evaluations() -> None:
    """Guards against `evaluation.n=4` that draws one answer, without a word."""
    for setting in ("evaluation.n=4", "evaluation.k=[2]"):
        with pytest.raises(UserError, match="this command does not use it"):
            answer.resolve("tiny", "demo-think-twice", [setting])
    assert answer.resolve("tiny", "demo-think-twice", ["evaluation.n_refine=2"])[0].evaluation.n_refine == 2
    with pytest.raises(UserError, match="this command does not use it"):
        serve._resolve("tiny", "demo-think-twice", ["evaluation.n_refine=2"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("evaluation.strategy=refine", "evaluation.strategy=refine replaces --strategy (solve)"),
        ("evaluation.strategy=solve", ""),
        ("evaluation.n=2", ""),
    ],
)
def test_a_setting_does_not_replace_an_option(setting: str, message: str) -> None:
    """Guards against `--strategy solve` that refines, because a setting says so."""
    options = {"evaluation.strategy": "solve", "endpoint.url": None}
    if not message:
        assert with_options(options, [setting]) == ['evaluation.strategy="solve"', setting]
        return
    with pytest.raises(UserError) as raised:
        with_options(options, [setting])
    assert message in str(raised.value)


def test_an_empty_endpoint_is_refused() -> None:
    """Guards against `--endpoint $URL` with an unset variable, which once meant a local model."""
    with pytest.raises(UserError, match="--endpoint is empty"):
        with_options({"endpoint.url": ""}, [])


def test_columns_of_drafts_need_drafts(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against `--question COLUMN` that is ignored for the problems of --on."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "1", "question": "2", "answer": "2"}\n')
    shown = rethink("eval", "tiny", "--on", "p.jsonl", "--question", "prompt")
    assert_one_message(
        shown, "--question prompt has no effect without --drafts; write evaluation.problems.question=prompt"
    )
