"""Samples of vLLM's CPU build, compared with our own sampler and the trainer's log-probs: `make test-vllm`."""

from __future__ import annotations

import itertools
import json
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx2
import pytest
import torch

from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.models import lora
from rethink.models.bundled import MODELS
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.endpoint.policy import EndpointPolicy
from rethink.policies.local import LocalPolicy
from rethink.policies.vllm.transfer import WeightSource
from rethink.recipe import load_recipe
from rethink.settings import Endpoint, Lora
from rethink.training import loop
from rethink.training.run import Run, open_run
from rethink.types import Sample, Sampling
from support.command_line import command_line
from support.ranks import assert_success, run_ranks
from with_vllm.runs import LONG, PROMPTS, gaps, mismatches, policy_over, settings_for
from with_vllm.serving import STARTUP_S, Served

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_equal_the_trainers(temperature: float, model: LanguageModel, served: Served) -> None:
    """Guards against log-probs at another temperature or of other tokens. Rounding is below 1e-4."""
    policy = policy_over(model, served, sampling=Sampling(temperature, max_tokens=61))
    policy.publish(1)
    groups = policy.sample([*PROMPTS, LONG], 7)
    samples = tuple(s for group in groups for s in group)
    largest = max(gaps(model, samples))
    print(f"temperature {temperature}: largest gap of log-probs {largest:.2e} over {len(samples)} samples")
    assert largest < 1e-4
    assert {s.stop for s in samples} == {"stop", "length"}
    assert len({s.ids for s in groups[0]}) > 3
    again = policy.sample([*PROMPTS, LONG], 7)
    assert [s.ids for group in again for s in group] == [s.ids for s in samples]


def test_scores_equal_the_trainers(model: LanguageModel, served: Served) -> None:
    """Guards against log-probs of other positions or prompts (which vLLM's cache holds), also from endpoints."""
    policy = policy_over(model, served)
    policy.publish(1)
    groups = policy.sample([*PROMPTS, LONG], 2)
    samples = [sample for group in groups for sample in group]
    endpoint = EndpointPolicy(Endpoint(url=served.url), str(served.model), Sampling(), warn=pytest.fail)
    swapped = [samples[i - 2].prompt for i in range(len(samples))]
    for prompts in (None, swapped):
        shown = samples
        if prompts is not None:
            pairs = zip(samples, prompts, strict=True)
            shown = [replace(s, prompt=p, prompt_ids=model.chat.encode(p.messages)) for s, p in pairs]
        for found in (policy.score(samples, prompts), endpoint.score(shown), endpoint_by_echo(endpoint, shown)):
            largest = max(gaps(model, tuple(shown), found))
            print(f"largest gap of scores {largest:.2e} over {len(shown)} samples")
            assert largest < 1e-4


def endpoint_by_echo(endpoint: EndpointPolicy, samples: list[Sample]) -> list[tuple[float, ...]]:
    """Return scores as from servers that do not know vLLM's own parameter."""
    endpoint._sender.unsupported = frozenset({"prompt_logprobs"})
    return endpoint.score(samples)


def test_greedy_tokens_equal_the_local_policys(model: LanguageModel, served: Served) -> None:
    """Guards against a prompt, stop ids or weights that differ from the local sampler's."""
    greedy = Sampling(0.0, max_tokens=61)
    policy = policy_over(model, served, sampling=greedy)
    policy.publish(1)
    ours = LocalPolicy(model, greedy).sample([*PROMPTS, LONG], 1)
    for (one,), (two,) in zip(policy.sample([*PROMPTS, LONG], 1), ours, strict=True):
        assert (one.ids, one.log_probs, one.text, one.stop) == (two.ids, two.log_probs, two.text, two.stop)


def test_all_stop_ids_end_a_reply(model: LanguageModel, served: Served) -> None:
    """Guards against replies that only the model's own end token ends; the id that ends a reply belongs to it."""
    policy = policy_over(model, served)
    policy.publish(1)
    free = policy.sample(PROMPTS, 7)
    often = max(range(2, 113), key=lambda i: sum(i in s.ids for group in free for s in group))
    model.chat.stop_ids |= {often}
    ended = [s for group in policy.sample(PROMPTS, 7) for s in group if often in s.ids]
    assert len(ended) > 1
    assert all(s.ids.index(often) == len(s.ids) - 1 and s.stop == "stop" for s in ended)


def test_publishing_replaces_all_weights_and_clears_the_cache(model: LanguageModel, served: Served) -> None:
    """Guards against a transfer that changes only half, and keys and values of the old weights in the prefix cache."""
    policy = policy_over(model, served)
    policy.publish(1)
    (old,) = policy.sample([LONG], 3)
    hits = served.metric("vllm:prefix_cache_hits_total")
    policy.sample([LONG], 3)
    assert served.metric("vllm:prefix_cache_hits_total") >= hits + 3 * 256
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            weight.mul_(0.8 if "norm" not in name else 1.1)
    policy.publish(2)
    hits = served.metric("vllm:prefix_cache_hits_total")
    (first,) = policy.sample([LONG], 1)
    assert served.metric("vllm:prefix_cache_hits_total") == hits
    (new,) = policy.sample([LONG], 3)
    assert {s.version for s in (*first, *new)} == {2}
    assert max(gaps(model, (*first, *new))) < 1e-4
    assert max(gaps(model, old)) > 0.1


def test_a_transfer_that_fails_leaves_a_usable_server(model: LanguageModel, served: Served) -> None:
    """Guards against a server that no run can use after a killed or wrong transfer, and a mix of old and new weights."""
    policy = policy_over(model, served)
    policy.fleet.servers[0].call("/start_weight_update")  # never finished
    assert_agreement(model, served)
    policy.fleet.warn = lambda _: None
    weights = [(name, weight.detach()) for name, weight in model.module.named_parameters()]
    for sent in ([(f"{name}s", weight) for name, weight in weights], weights[: len(weights) // 2]):
        policy.fleet.weights = WeightSource(policy.fleet.weights.shapes, partial(iter, sent))
        with pytest.raises(UserError, match="no vLLM server is left"):
            policy.publish(1)
        assert_agreement(model, served)


def assert_agreement(model: LanguageModel, served: Served) -> None:
    policy = policy_over(model, served)
    policy.publish(1)
    (group,) = policy.sample(PROMPTS[:1], 3)
    assert max(gaps(model, group)) < 1e-4


def test_an_adapter_is_published_merged(folder: Path, model: LanguageModel, served: Served) -> None:
    """Guards against samples of the base: the log-probs have to be those of the model with its adapter."""
    adapted = lora.add_adapter(model, Lora(rank=3), seed=5)
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in adapted.module.named_parameters():
            if ".lora_B." in name:
                weight.copy_(torch.randn(weight.shape, generator=draws) / 10)
    assert_agreement(adapted, served)
    (group,) = policy_over(adapted, served).sample(PROMPTS[:1], 3)
    assert max(gaps(model, group)) > 0.1


def test_a_server_of_another_model_is_refused(folder: Path, tmp_path: Path, served: Served) -> None:
    """Guards against a run folder, and training, before it is known that vLLM samples from the trainer's weights."""
    recipe = load_recipe(None, settings_for(tmp_path / "run", f'sampler.urls=["{served.url}"]'))
    with pytest.raises(UserError, match=r"does it serve model\.path\?"):
        open_run(recipe, warn=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_think_twice_with_a_colocated_engine(tmp_path: Path) -> None:
    """Guards against samples of the wrong weights: vLLM's log-probs equal the trainer's in every update."""
    more = ["evaluation.problems.source=countdown", "evaluation.problems.limit=11", "evaluation.sampling.max_tokens=24"]
    run = open_run(load_recipe(None, settings_for(tmp_path / "run", *more)), warn=pytest.fail)
    try:
        *updates, evaluation = loop.train(run)
    finally:
        run.policy.close()  # type: ignore[attr-defined]
    assert [record["phase"] for record in updates] == ["solve", "refine"] * 4
    for name in ("mismatch/log_prob_gap_max", "mismatch/prob_gap", "mismatch/kl", "mismatch/exp_log_prob_gap"):
        print(f"{name}: largest over {len(updates)} updates {max(record[name] for record in updates):.3e}")
    assert all(record["mismatch/log_prob_gap_max"] < 1e-3 for record in updates)
    assert mismatches(updates) == []
    assert updates[-1]["optimizer_steps"] >= 4
    assert evaluation["phase"] == "evaluation"
    assert evaluation["solve"]["n"] == 11


# Several ranks

# Two batches of two updates, with ratios that are not 1, and for each rank groups with right and wrong replies.
STEPS = ["method.solve={n_steps = 2}", "updates=4", "problems_per_batch=6", "n_logged_samples=100"]


def train_on_ranks(n: int, out: Path, *more: str) -> list[Record]:
    """Train on n ranks and return the metrics."""
    recipe = out.with_suffix(".toml")
    recipe.write_text("")
    folder, given = out.with_suffix(".output"), settings_for(out, *STEPS, "distributed.timeout_s=900", *more)
    exits = run_ranks(n, command_line, "train", recipe, *given, folder=folder, timeout_s=2 * STARTUP_S)
    assert_success(exits)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["phase"] for r in records] == ["solve", "refine"] * 2
    assert {r["n_ranks"] for r in records} == {n}
    return records


def replies(out: Path) -> list[list[str]]:
    """Return the replies of each update."""
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return [[s["reply"] for s in some] for _, some in itertools.groupby(samples, lambda s: (s["batch"], s["phase"]))]


def assert_weights_were_sent(records: list[Record], start: Path, out: Path) -> None:
    """Assert that every update's samples are of the weights that it trains, which differ clearly from the first ones."""
    print(f"largest gap of log-probs {max(r['mismatch/log_prob_gap_max'] for r in records):.3e}")
    assert all(r["mismatch/log_prob_gap_max"] < 1e-3 for r in records)
    assert mismatches(records) == []
    old, new = (load_model(str(folder)) for folder in (start, out / "checkpoints" / "000002"))
    (group,) = LocalPolicy(old, Sampling(max_tokens=24)).sample(PROMPTS[:1], 3)
    assert max(gaps(new, group)) > 0.05


@pytest.mark.parametrize("old_log_probs", ["sampler", "recomputed"])
def test_two_ranks_with_one_server_make_the_run_of_one_process(
    old_log_probs: str, folder: Path, tmp_path: Path, served: Served
) -> None:
    """Guards against samples that differ between ranks, and ratios to log-probs recomputed from other ranks' rows. Once
    vLLM rounds differently in another batch and samples another token, the runs differ."""
    given = [f"model.path={folder}", f'sampler.urls=["{served.url}"]', f"training.old_log_probs={old_log_probs}"]
    records = train_on_ranks(2, tmp_path / "two", *given)
    assert_weights_were_sent(records, folder, tmp_path / "two")
    recipe = load_recipe(None, settings_for(tmp_path / "one", *STEPS, *given))
    single = list(loop.train(open_run(recipe, warn=pytest.fail)))
    pairs = zip(replies(tmp_path / "two"), replies(tmp_path / "one"), strict=True)
    n = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    print(f"{n} updates with the same samples")
    assert n > 0
    for ours, theirs in zip(records[:n], single[:n], strict=True):
        for key in ("reward", "loss", "grad_norm", "ratio", "entropy_nats", "length_tokens"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5), (ours["update"], key)


def test_two_ranks_with_a_server_each(tmp_path: Path) -> None:
    """Guards against ranks that share a server, or wait for each other's, and weights that only rank 0's server gets."""
    records = train_on_ranks(2, tmp_path / "two")
    assert_weights_were_sent(records, MODELS["tiny"], tmp_path / "two")


def test_servers_killed_in_a_run(folder: Path, tmp_path: Path, pair: list[Served]) -> None:
    """Guards against lost prompts when one server is killed, and a run that cannot resume when all are."""
    second, first = (server.wait() for server in pair)
    urls = [first.url, second.url]
    more = (f"model.path={folder}", f"sampler.urls={urls}".replace("'", '"'), "updates=12")
    recipe = load_recipe(None, settings_for(tmp_path / "run", *more))
    warnings: list[str] = []
    run = open_run(recipe, warn=warnings.append)
    kill_when_asked(run, first, n_records=3)
    records = []
    for record in loop.train(run):
        records.append(record)
        if len(records) == 6:
            break
    assert [first.url in line for line in warnings] == [True]
    assert mismatches(records) == []
    second.kill()
    saved = run.newest_checkpoint()
    with pytest.raises(UserError, match=r"no vLLM server is left to sample from .*untouched.* --resume"):
        records.extend(loop.train(run))
    assert run.newest_checkpoint() == saved
    second.start()
    second.wait()
    remaining = load_recipe(None, settings_for(tmp_path / "run", *more, f'sampler.urls=["{second.url}"]'))
    resumed = open_run(remaining, resume=True, warn=pytest.fail)
    rest = list(loop.train(resumed))
    assert rest[-1]["update"] == 12
    assert mismatches(rest) == []


def kill_when_asked(run: Run, served: Served, n_records: int) -> None:
    """Kill the server while it samples for the update after `n_records`."""

    def is_sampling() -> bool:
        try:
            return served.metric("vllm:num_requests_running") > 0
        except httpx2.TransportError:  # a busy server may reset a connection
            return False

    def watch() -> None:
        while run.trainer.version < n_records or not is_sampling():
            pass
        served.kill()

    threading.Thread(target=watch, daemon=True).start()
