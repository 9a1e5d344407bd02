"""Training runs that sample with vLLM, against a fake of its server; and vLLM beside the trainer, as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.models.language_model import LanguageModel
from rethink.policies.vllm import colocated, dispatch, start
from rethink.policies.vllm.colocated import ColocatedModel, start_colocated
from rethink.recipe import Recipe, load_recipe
from rethink.settings import Sampler
from rethink.training import loop
from rethink.training.run import open_run
from support.fake_vllm import FakeVllm, running
from support.processes import wait_for


@pytest.fixture
def fake(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    """Its replies follow from the request's seed, and it computes their log-probs with the weights that it was sent."""
    (stop_id,) = qwen.chat.stop_ids
    monkeypatch.setattr(dispatch, "DELAY_S", 0.0)
    made = FakeVllm(stop_id)

    @torch.no_grad()
    def log_probs(prompt: list[int], ids: list[int]) -> list[float]:
        qwen.module.load_state_dict(made.weights, strict=False)
        logits = qwen.module(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        found: list[float] = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()
        return found

    made.log_probs = log_probs
    made.script = lambda body: [
        2 + body["sampling_params"]["seed"] % 7,
        2 + body["sampling_params"]["seed"] % 11,
        stop_id,
    ]
    with running(made):
        yield made


def recipe_for(folder: Path, out: Path, *more: str) -> Recipe:
    problems = "".join(f'{{"question": "{n} 7 5 -> 26", "answer": "26"}}\n' for n in range(7))
    (out.parent / "problems.jsonl").write_text(problems)
    return load_recipe(
        None,
        [
            *(
                f"model.path={folder}",
                "model.device=cpu",
                "updates=6",
                "problems_per_batch=2",
                "checkpoint_every=2",
                "seed=3",
            ),
            *("method.name=think_twice", "method.n_solve=5", "method.n_refine=3", "training.lr=0.003"),
            *(f"problems.source={out.parent / 'problems.jsonl'}", "problems.verifier=support.coins:coin"),
            *("prompts.solve={question}", "prompts.refine=again", "sampling.max_tokens=5", f"out={out}"),
            *("sampler.engine=vllm", *more),
        ],
    )


def test_a_lost_server_ends_the_run_and_resuming_goes_on(
    model_folders: dict[str, Path], fake: FakeVllm, tmp_path: Path
) -> None:
    """Guards against a checkpoint that is damaged, or missing, when the last server dies; and against a resumed run whose
    first samples come from the start weights."""
    recipe = recipe_for(model_folders["qwen3"], tmp_path / "run", f'sampler.urls=["{fake.url}"]')
    run = open_run(recipe, warn=lambda _: None)
    labels: list[str] = []
    records: list[Record] = []
    n_checks = len(fake.asked)
    fake.on_generate = lambda n: fake.kill() if n == n_checks + 40 else labels.append(fake.label)
    with pytest.raises(UserError, match=r"no vLLM server is left .* --resume"):
        records.extend(loop.train(run))
    assert all(record["mismatch/log_prob_gap_max"] < 1e-4 and not record["alarms"] for record in records)
    saved = run.newest_checkpoint()
    assert saved is not None
    assert saved.name == "000004"  # 16 samples a batch: the third was under way
    assert len(set(labels)) == 5
    fake.start()
    fake.on_generate = lambda n: None
    resumed = open_run(recipe, resume=True, warn=lambda _: pytest.fail("no warning is due"))
    assert resumed.trainer.version == 4
    trained = dict(resumed.trainer.model.module.named_parameters())
    assert all(torch.equal(weight, trained[name]) for name, weight in fake.weights.items())
    assert [record["update"] for record in loop.train(resumed)] == [5, 6]


def test_evaluations_in_training_ask_the_same_servers(
    model_folders: dict[str, Path], fake: FakeVllm, tmp_path: Path
) -> None:
    """Guards against held-out problems that the local sampler answers, slowly, beside an idle server."""
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text('{"question": "9 9 -> 18", "answer": "18"}\n')
    more = [
        f'sampler.urls=["{fake.url}"]',
        f"evaluation.problems.source={held_out}",
        "evaluation.sampling.max_tokens=7",
    ]
    recipe = recipe_for(
        model_folders["qwen3"], tmp_path / "run", *more, "updates=2", "evaluation.problems.verifier=support.coins:coin"
    )
    records = list(loop.train(open_run(recipe, warn=lambda _: None)))
    assert records[-1]["phase"] == "evaluation"
    greedy = [body for body in fake.asked if body["sampling_params"]["temperature"] == 0]
    assert [body["sampling_params"]["max_tokens"] for body in greedy] == [7, 7]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "raw log-probs": ({"logprobs_mode": "raw_logprobs"}, "returns raw_logprobs, but training needs"),
    "no cap": ({"max_model_len": None}, "is not that of vLLM 0.32"),
}


@pytest.mark.parametrize(
    "case", [*REFUSED, "no transfer", "no server", "no routes", "weights refused", "another model"]
)
def test_unfit_servers_are_refused_before_anything_is_written(
    case: str, model_folders: dict[str, Path], fake: FakeVllm, tmp_path: Path
) -> None:
    """Guards against a run that starts, writes its folder, and ends with its first sample."""
    if case in REFUSED:
        changes, message = REFUSED[case]
        fake.model.update(changes)
    elif case == "no transfer":
        fake.backend, message = (
            None,
            "does not accept weights from a trainer; start it like this: VLLM_SERVER_DEV_MODE=1",
        )
    elif case == "no server":
        fake.kill()
        message = "does not answer as a vLLM server"
    elif case == "no routes":
        fake.answers["/get_world_size"] = [(404, {"detail": "Not Found"})]
        message = "VLLM_SERVER_DEV_MODE=1"
    elif case == "weights refused":
        fake.answers["/update_weights"] = [(500, {"error": {"message": "no such weight"}})]
        message = "does it serve model.path?"
    else:
        fake.log_probs = lambda prompt, ids: [-0.5] * len(ids)
        message = "token probabilities differ from the trainer's"
    recipe = recipe_for(model_folders["qwen3"], tmp_path / "run", f'sampler.urls=["{fake.url}"]')
    with pytest.raises(UserError) as caught:
        open_run(recipe, warn=lambda _: None)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert (fake.asked == []) == (case != "another model")


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("[]", "needs vLLM, which is not installed here: pip install 'rethink-rl\\[vllm\\]'"),
        ('["ftp://a:1"]', "is not the URL of a vLLM server"),
        ('["http://a:1/v1/chat/completions"]', "is not the URL of a vLLM server"),
        ('["http://a:1", "http://a:1/v1"]', "names a server twice"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    urls: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a model of gigabytes that is loaded first, and a run folder without a run."""
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    recipe = recipe_for(tmp_path / "no-model", tmp_path / "run", f"sampler.urls={urls}")
    with pytest.raises(UserError, match=message):
        open_run(recipe)
    assert not (tmp_path / "run").exists()


OWN = ColocatedModel("a/model", torch.device("cpu"), torch.float32, 128)
GIVEN = Sampler(gpu_memory=0.3, timeout_s=20.0, cache_gib=0.5)


def test_a_colocated_server_has_one_device_and_no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against all ranks' servers on the first GPU, against servers that join the trainer's process group, and
    against log-probs or weights that are not the training's."""
    gpu = ColocatedModel("a/model", torch.device("cuda", 1), torch.bfloat16, 64, random=True)
    given = {"PATH": "x", "RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "3", "TORCHELASTIC_RUN_ID": "4"}
    assert colocated.server_environment(gpu, given).items() >= {"PATH": "x", "CUDA_VISIBLE_DEVICES": "1"}.items()
    assert colocated.server_environment(gpu, {**given, "CUDA_VISIBLE_DEVICES": "4,6"})["CUDA_VISIBLE_DEVICES"] == "6"
    assert not colocated.server_environment(gpu, given).keys() & (given.keys() - {"PATH"})
    assert "CUDA_VISIBLE_DEVICES" not in colocated.server_environment(OWN, given)
    line = " ".join(colocated.server_command(gpu, GIVEN, "/socket"))
    assert '"backend": "ipc"' in line
    assert "--gpu-memory-utilization 0.3 --enable-sleep-mode" in line
    assert "--load-format dummy" in line
    line = " ".join(colocated.server_command(OWN, GIVEN, "/socket"))
    assert '"backend": "rethink-files"' in line
    assert f"--kv-cache-memory-bytes {2**29}" in line
    assert "--logprobs-mode processed_logprobs" in line
    assert "--enable-sleep-mode" not in line
    assert "--load-format auto" in line


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against waiting for a process that has ended, and an error that only a log file tells."""
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setattr(
        colocated, "server_command", lambda *given: [sys.executable, "-c", "print('no memory left'); exit(3)"]
    )
    with pytest.raises(UserError, match=r"vLLM did not start; .*\nno memory left"):
        start_colocated(OWN, GIVEN)
    assert not tmp_path.exists()


FORK = """
import os, sys, time
child = os.fork()
if child:
    open(sys.argv[1], "w").write(f"{os.getpid()} {child}")
time.sleep(600)
"""


def test_a_killed_trainer_takes_its_server_along(tmp_path: Path) -> None:
    """Guards against servers that keep a GPU's memory after `kill -9` of the run, and children of theirs."""
    pids = tmp_path / "pids"
    keeper = [sys.executable, "-m", "rethink.policies.vllm.watchdog", sys.executable, "-c", FORK, str(pids)]
    script = f"import subprocess, time; subprocess.Popen({keeper}, stdin=subprocess.PIPE); time.sleep(600)"
    trainer = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        child, grandchild = map(int, pids.read_text().split())
        assert alive(child)
    finally:
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    wait_for(lambda: not alive(child) and not alive(grandchild), timeout_s=60)


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and was not collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
