"""Training runs that sample from fake vLLM servers, and refusals before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.models.language_model import LanguageModel
from rethink.policies.vllm import sample_job, start
from rethink.recipe import Recipe, load_recipe
from rethink.training import loop
from rethink.training.run import open_run, problems_to_compare
from rethink.types import Problem, Verdict
from support.fake_vllm import FakeVllm, computing_server
from support.images import image


@pytest.fixture
def fake(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    monkeypatch.setattr(sample_job, "DELAY_S", 0.0)
    with computing_server(qwen) as server:
        yield server


def recipe_for(model: Path, out: Path, *more: str) -> Recipe:
    problems = "".join(f'{{"question": "{n} 7 5 -> 26", "answer": "26"}}\n' for n in range(7))
    (out.parent / "problems.jsonl").write_text(problems)
    settings = [
        *(f"model.path={model}", "model.device=cpu", "updates=6", "problems_per_batch=2", "checkpoint_every=2"),
        *("method.name=think_twice", "method.n_solve=5", "method.n_refine=3", "training.lr=0.003", "seed=3"),
        *(f"problems.source={out.parent / 'problems.jsonl'}", "problems.verifier=support.coins:coin"),
        *("prompts.solve={question}", "prompts.refine=again", "sampling.max_tokens=5", f"out={out}"),
        *("sampler.engine=vllm", *more),
    ]
    return load_recipe(None, settings)


@pytest.mark.parametrize("n_servers", [1, 3])
@pytest.mark.parametrize("n_shown", [0, 1, 30])
def test_each_server_is_asked_about_an_image(n_shown: int, n_servers: int) -> None:
    """Guards against a server that cannot read images and passes the check, because only later problems have some. A server
    may get any four of the prompts."""
    text = [Problem(f"t{k}", "1+1?", "2", verify=lambda reply, gold: Verdict(None)) for k in range(20)]
    shown = [replace(text[0], id=f"i{k}", images=(image(),)) for k in range(n_shown)]
    found = problems_to_compare([*text, *shown], n_servers)
    assert len(found) == 4 * n_servers
    assert found[0] == text[0], "text is compared, too"
    assert sum(not problem.images for problem in found) == (3 if n_shown else 4 * n_servers)
    only_shown = problems_to_compare(shown, n_servers)
    assert len(only_shown) == (4 * n_servers if n_shown else 0)
    assert {problem.id for problem in only_shown} == {problem.id for problem in shown[: 4 * n_servers]}


@pytest.mark.slow
def test_a_run_without_servers_ends_and_resumes(model_folders: dict[str, Path], fake: FakeVllm, tmp_path: Path) -> None:
    """Guards against a checkpoint that is damaged or missing when the last server dies, and a resumed run whose first
    samples are of the start weights."""
    recipe = recipe_for(model_folders["qwen3"], tmp_path / "run", f'sampler.urls=["{fake.url}"]')
    run = open_run(recipe, warn=lambda _: None)
    labels: list[str] = []
    records: list[Record] = []
    n_checks = len(fake.requests)
    fake.on_generate = lambda n: fake.kill() if n == n_checks + 40 else labels.append(fake.label)
    with pytest.raises(UserError, match=r"no vLLM server is left .* --resume"):
        records.extend(loop.train(run))
    assert all(record["mismatch/log_prob_gap_max"] < 1e-4 and not record["alarms"] for record in records)
    saved = run.newest_checkpoint()
    assert saved is not None
    assert saved.name == "000004"  # 16 samples per batch: the server died in the third
    assert len(set(labels)) == 5
    fake.start()
    fake.on_generate = lambda n: None
    resumed = open_run(recipe, resume=True, warn=pytest.fail)
    assert resumed.trainer.version == 4
    trained = dict(resumed.trainer.model.module.named_parameters())
    assert all(torch.equal(weight, trained[name]) for name, weight in fake.weights.items())
    assert [record["update"] for record in loop.train(resumed)] == [5, 6]


@pytest.mark.slow
def test_evaluations_in_training_use_the_same_servers(
    model_folders: dict[str, Path], fake: FakeVllm, tmp_path: Path
) -> None:
    """Guards against held-out problems that the slow local sampler answers while a server is idle."""
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text('{"question": "9 9 -> 18", "answer": "18"}\n')
    problems = [f"evaluation.problems.source={held_out}", "evaluation.problems.verifier=support.coins:coin"]
    more = [f'sampler.urls=["{fake.url}"]', *problems, "evaluation.sampling.max_tokens=7", "updates=2"]
    records = list(loop.train(open_run(recipe_for(model_folders["qwen3"], tmp_path / "run", *more), warn=print)))
    assert records[-1]["phase"] == "evaluation"
    greedy = [body for body in fake.requests if body["sampling_params"]["temperature"] == 0]
    assert [body["sampling_params"]["max_tokens"] for body in greedy] == [7, 7]


def refuse_weights(fake: FakeVllm) -> None:
    fake.answers["/update_weights"] = [(500, {"error": {"message": "no such weight"}})]


def serve_another_model(fake: FakeVllm) -> None:
    fake.log_probs = lambda prompt, ids: [-0.5] * len(ids)


UNFIT: dict[str, tuple[Callable[[FakeVllm], object], str]] = {
    "raw log-probs": (
        lambda fake: fake.model.update(logprobs_mode="raw_logprobs"),
        "returns raw_logprobs, but training needs",
    ),
    "no length limit": (lambda fake: fake.model.update(max_model_len=None), "is not that of vLLM 0.32"),
    "no transfer": (
        lambda fake: setattr(fake, "backend", None),
        "does not accept weights from a trainer; start it like this: VLLM_SERVER_DEV_MODE=1",
    ),
    "no server": (FakeVllm.kill, "does not answer as a vLLM server"),
    "no routes": (
        lambda fake: fake.answers.update({"/get_world_size": [(404, {"detail": "Not Found"})]}),
        "VLLM_SERVER_DEV_MODE=1",
    ),
    "refused weights": (refuse_weights, "does it serve model.path?"),
    "another model": (serve_another_model, "token probabilities differ from the trainer's"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_unfit_servers_are_refused_before_anything_is_written(
    case: str, model_folders: dict[str, Path], fake: FakeVllm, tmp_path: Path
) -> None:
    """Guards against a run that writes its folder and ends with its first sample."""
    change, message = UNFIT[case]
    change(fake)
    recipe = recipe_for(model_folders["qwen3"], tmp_path / "run", f'sampler.urls=["{fake.url}"]')
    with pytest.raises(UserError) as caught:
        open_run(recipe, warn=lambda _: None)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert (fake.requests == []) == (case != "another model")


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("[]", "needs vLLM, which is not installed here: pip install 'rethink-rl\\[vllm\\]'"),
        ('["ftp://a:1"]', "is not the URL of a vLLM server"),
        ('["http://a:1/v1/chat/completions"]', "is not the URL of a vLLM server"),
        ('["http://a:1", "http://a:1/v1"]', "names a server twice"),
    ],
)
def test_wrong_settings_are_refused_before_the_model_is_loaded(
    urls: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a model of gigabytes that is loaded in vain."""
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=message):
        open_run(recipe_for(Path("tiny"), tmp_path / "run", f"sampler.urls={urls}"))
    assert not (tmp_path / "run").exists()
