"""Several vLLM servers: published weights, lost servers, and servers that answer again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rethink.errors import UserError
from rethink.models.forward.embedding import tower_names
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.models.lora import named_weights
from rethink.policies.vllm import server, transfer
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.policy import VllmPolicy
from support.fake_endpoint import make_prompt
from support.fake_vllm import FakeVllm
from support.vision_models import save_vision_model
from support.vllm_policy import PROMPTS, PUBLISH, ids_of, make_policy, three_servers, without_delays

_no_delays = pytest.fixture(autouse=True)(without_delays)
fakes = pytest.fixture(three_servers)


def test_publishing_pauses_sends_clears_and_resumes(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a prefix cache that outlives its weights, and servers with other weights than the trainer."""
    fakes[0].model["dtype"] = "torch.float32"
    policy = make_policy(qwen, *fakes[:2])
    policy.publish(1)
    for fake in fakes[:2]:
        assert fake.events == PUBLISH
        assert not fake.paused
        assert fake.weights.keys() == dict(qwen.module.named_parameters()).keys()
        assert all(torch.equal(fake.weights[name], p) for name, p in qwen.module.named_parameters())
    with torch.no_grad():
        for weight in qwen.module.parameters():
            weight.mul_(0.5)
    policy.publish(2)
    for fake in fakes[:2]:
        assert fake.events == [*PUBLISH, *(path for path in PUBLISH if path != "/init_weight_transfer_engine")]
        assert all(torch.equal(fake.weights[name], p) for name, p in qwen.module.named_parameters())
    assert fakes[0].label == fakes[1].label
    assert {s.version for group in policy.sample(PROMPTS, 2) for s in group} == {2}


def test_weights_are_sent_in_the_dtype_of_the_server(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against twice the bytes for a server in bfloat16."""
    fakes[0].model["dtype"] = "torch.bfloat16"
    make_policy(qwen, fakes[0]).publish(1)
    assert {weight.dtype for weight in fakes[0].weights.values()} == {torch.bfloat16}


def test_servers_share_the_work(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a first server that takes all jobs; a prompt's samples stay on one server, with its cache."""
    policy = make_policy(qwen, *fakes, concurrency=256)
    policy.sample([*PROMPTS, make_prompt("7 -> 7")], 4)
    assert [len(fake.requests) for fake in fakes] == [8, 8, 8]
    assert all(len({tuple(body["token_ids"]) for body in fake.requests}) == 2 for fake in fakes)


def test_prompts_of_a_lost_server_go_to_another(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against lost, doubled or swapped samples when a server dies, and a run that continues without servers."""
    expected = ids_of(make_policy(qwen, fakes[2]).sample(PROMPTS, 3))
    warnings: list[str] = []
    policy = make_policy(qwen, *fakes[:2], warn=warnings.append)
    policy.publish(1)
    fakes[0].on_generate = lambda n: fakes[0].kill() if n == 4 else None
    assert ids_of(policy.sample(PROMPTS, 3)) == expected
    assert [fakes[0].url in line for line in warnings] == [True]
    assert len(fakes[0].requests) >= 4
    fakes[1].kill()
    with pytest.raises(UserError) as caught:
        policy.sample(PROMPTS, 3)
    assert all(text in str(caught.value) for text in (fakes[0].url, fakes[1].url, "--resume", "untouched"))


def test_a_restarted_server_gets_the_weights_first(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against samples of a server's start weights that are taken for the published ones."""
    warnings: list[str] = []
    policy = make_policy(qwen, *fakes[:2], warn=warnings.append)
    policy.publish(1)
    fakes[0].kill()
    fakes[0].start()
    fakes[0].events.clear()
    n_before = len(fakes[0].requests)
    assert {s.version for group in policy.sample(PROMPTS, 3) for s in group} == {1}
    assert "wrong weights" in warnings[0]
    assert len(fakes[0].requests) <= n_before + 7  # requests before its first answer
    n_before = len(fakes[0].requests)
    policy.sample(PROMPTS, 3)
    assert len(fakes[0].requests) == n_before
    policy.publish(2)
    assert fakes[0].events == PUBLISH
    policy.sample(PROMPTS, 3)
    assert len(fakes[0].requests) > n_before


def requests_after_restart(policy: VllmPolicy, fake: FakeVllm, *, is_noticed: bool = True, **model: str) -> int:
    """Restart a server with these settings of its model, and return how many requests it gets after the next update.

    `is_noticed`: somebody asks for a sample while it is down."""
    fake.kill()
    if is_noticed:
        policy.sample(PROMPTS, 3)
    fake.model.update(model)
    fake.start()
    policy.publish(policy.version + 1)
    n_before = len(fake.requests)
    policy.sample(PROMPTS, 3)
    return len(fake.requests) - n_before


def test_a_restarted_server_is_checked_again(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Regression: a server that was restarted without --logprobs-mode was used again, and its log-probs at temperature 1
    were taken for those of the distribution that was sampled from."""
    warnings: list[str] = []
    policy = make_policy(qwen, *fakes[:2], warn=warnings.append)
    policy.publish(1)

    def restart(mode: str) -> int:
        return requests_after_restart(policy, fakes[0], logprobs_mode=mode)

    assert restart("raw_logprobs") == 0
    assert "returns raw_logprobs, but training needs" in warnings[-1]
    n_warnings = len(warnings)
    policy.publish(policy.version + 1)
    assert len(warnings) == n_warnings, "it is said once"
    fakes[0].backend = "nccl"
    assert restart("processed_logprobs") == 0
    assert "now has the weight transfer backend nccl, the others" in warnings[-1]
    fakes[0].backend = fakes[1].backend
    assert restart("processed_logprobs") > 0


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_server_restarted_with_another_model_is_left_out(
    qwen: LanguageModel, fakes: list[FakeVllm], is_noticed: bool
) -> None:
    """Guards against samples of another base model of the same shape, under an adapter or a config that is not its own,
    also where the restart was over before anybody asked for a sample."""
    warnings: list[str] = []
    policy = make_policy(qwen, *fakes[:2], warn=warnings.append)
    policy.publish(1)

    def restart(model: str) -> int:
        return requests_after_restart(policy, fakes[0], is_noticed=is_noticed, model=model)

    assert restart("other") == 0
    assert "now serves other, before tiny" in warnings[-1]
    n_warnings = len(warnings)
    policy.publish(policy.version + 1)
    assert len(warnings) == n_warnings, "it is said once"
    assert restart("tiny") > 0
    assert fakes[0].label == fakes[1].label


def test_a_frozen_tower_is_sent_once(tmp_path: Path, fakes: list[FakeVllm]) -> None:
    """Guards against gigabytes that never change in each update, a server without them, and a layer of the language model
    that is taken for one of the tower."""
    model = load_model(str(save_vision_model(tmp_path, "Idefics3")))
    names = {name for name, _ in named_weights(model)}
    tower = {name for name in names if ".text_model." not in name and not name.startswith("lm_head.")}
    assert tower_names(model.module) == tower
    policy = make_policy(model, *fakes[:2], warn=lambda _: None)
    policy.publish(1)
    policy.publish(2)
    for fake in fakes[:2]:
        assert list(map(set, fake.sent)) == [tower, names - tower, names - tower]
        assert fake.weights.keys() == names
    fakes[0].kill()
    fakes[0].start()
    policy.fleet.mark_lost(policy.fleet.servers[0], "restarted")
    policy.publish(3)
    policy.publish(4)
    assert fakes[0].weights.keys() == names
    assert list(map(set, fakes[0].sent[-3:])) == [tower, names - tower, names - tower]
    assert all(torch.equal(fakes[0].weights[name], weight) for name, weight in named_weights(model))


def test_the_tower_of_another_run_is_replaced(tmp_path: Path, fakes: list[FakeVllm]) -> None:
    """Regression: a run that shared a server with another one sampled with the other's tower: its next update left the
    tower out, and named all weights its own."""
    path = str(save_vision_model(tmp_path, "Idefics3"))
    ours, others = load_model(path), load_model(path)
    with torch.no_grad():
        for weight in others.module.parameters():
            weight.mul_(0.5)
    policy, other = make_policy(ours, *fakes[:2]), make_policy(others, fakes[1])
    policy.publish(1)
    other.publish(1)
    policy.publish(2)
    policy.publish(3)
    for fake in fakes[:2]:
        assert all(torch.equal(fake.weights[name], weight) for name, weight in named_weights(ours))
    assert len(fakes[0].sent) == 2 + 2 + 1


def test_weights_that_another_run_has_half_sent_are_noticed(
    qwen: LanguageModel, fakes: list[FakeVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against samples of weights that are part ours, part another run's: it dies while it sends them, somebody lets
    the server go on, and the label is still that of our weights."""
    warnings: list[str] = []
    ours, other = make_policy(qwen, *fakes[:2], warn=warnings.append), make_policy(qwen, fakes[1])
    ours.publish(1)

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(Fleet, "finish_weight_update", die)
        with pytest.raises(SystemExit):
            other.publish(1)
    assert fakes[1].label == f"{other.fleet.label}/unfinished"
    fakes[1].paused = False
    assert {s.version for group in ours.sample(PROMPTS, 3) for s in group} == {1}
    [warning] = warnings
    assert fakes[1].url in warning
    assert "wrong weights" in warning
    assert "/unfinished" in warning
    ours.publish(2)
    assert fakes[0].label == fakes[1].label == ours.fleet.label
    n_before = len(fakes[1].requests)
    ours.sample(PROMPTS, 3)
    assert len(fakes[1].requests) > n_before


def test_a_model_of_text_is_one_file(
    qwen: LanguageModel, fakes: list[FakeVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an empty file of frozen weights in each update."""
    written: list[str] = []

    def watched(tensors: dict[str, torch.Tensor], file: Path) -> None:
        written.append(file.name)
        save_file(tensors, file)

    monkeypatch.setattr(transfer, "save_file", watched)
    policy = make_policy(qwen, fakes[0])
    policy.publish(1)
    policy.publish(2)
    assert written == ["weights.safetensors"] * 2


def test_weights_of_another_run_are_noticed(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against samples and scores of another run's weights, whose version has the same number."""
    policy, scorer = (make_policy(qwen, fakes[0], warn=lambda _: None) for _ in range(2))
    scorer.publish(1)
    policy.publish(1)
    make_policy(qwen, fakes[0]).publish(1)
    with pytest.raises(UserError, match="wrong weights"):
        policy.sample(PROMPTS, 1)
    with pytest.raises(UserError, match="wrong weights"):
        scorer.score([scorer.transcribe(PROMPTS[0], "3 * 7 = 21")])


def test_a_server_that_fails_in_publishing_is_left_out(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a server that keeps old weights after a failed transfer, and a run that ends because of it."""
    warnings: list[str] = []
    policy = make_policy(qwen, *fakes[:2], warn=warnings.append)
    fakes[0].answers["/update_weights"] = [(500, {"error": {"message": "out of memory"}})]
    policy.publish(1)
    policy.sample(PROMPTS, 2)
    assert fakes[0].requests == []
    assert "out of memory" in warnings[0]
    fakes[1].answers["/pause"] = [(500, {"error": {"message": "dead"}})]
    fakes[0].answers["/health"] = [(503, None)]
    with pytest.raises(UserError, match="no vLLM server is left"):
        policy.publish(2)


def test_an_update_left_open_by_a_dead_trainer_is_closed(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a server that no later run can use."""
    fakes[0].answers["/start_weight_update"] = [(500, {"error": {"message": "already active"}})]
    fakes[0].answers["/finish_weight_update"] = [(200, {})]
    policy = make_policy(qwen, fakes[0])
    policy.publish(1)
    begin = fakes[0].events.index("/start_weight_update")
    calls = ["/start_weight_update", "/finish_weight_update", "/start_weight_update"]
    assert fakes[0].events[begin : begin + 3] == calls
    assert len(policy.sample(PROMPTS, 1)) == 5


def test_clearing_the_cache_is_retried(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against taking "success": false for success."""
    fakes[0].answers["/reset_prefix_cache"] = [(200, {"success": False})] * 3
    policy = make_policy(qwen, fakes[0])
    policy.publish(1)
    assert fakes[0].events.count("/reset_prefix_cache") == 4
    fakes[0].answers["/reset_prefix_cache"] = [(200, {"success": False})] * server.RESET_ATTEMPTS
    policy.fleet.warn = lambda _: None
    with pytest.raises(UserError, match="cache cannot be reset"):
        policy.publish(2)
    assert fakes[0].paused


def test_weights_that_the_server_ignores_are_noticed(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a transfer that the server accepted without using it."""
    fakes[0].answers["/finish_weight_update"] = [(200, {})]
    with pytest.raises(UserError, match=r"it has the weights '[0-9a-f]+/1/unfinished' instead of"):
        make_policy(qwen, fakes[0], warn=lambda _: None).publish(1)


@pytest.mark.parametrize(("colocated", "can_sleep"), [(True, True), (False, True), (True, False)])
def test_colocated_servers_sleep_between_phases(
    colocated: bool, can_sleep: bool, qwen: LanguageModel, fakes: list[FakeVllm]
) -> None:
    """Guards against memory that the trainer never gets, and requests to a sleeping server; others stay awake."""
    fakes[0].model["enable_sleep_mode"] = can_sleep
    policy = make_policy(qwen, fakes[0])
    policy.fleet.servers[0].colocated = colocated
    policy.publish(1)
    policy.sample(PROMPTS, 1)
    fakes[0].events.clear()
    policy.release_memory()
    policy.release_memory()
    policy.sample(PROMPTS, 1)
    policy.release_memory()
    policy.publish(2)
    events = [path for path in fakes[0].events if path in ("/sleep", "/wake_up", "/pause")]
    sleeps = colocated and can_sleep
    assert events == (["/sleep", "/wake_up", "/sleep", "/wake_up", "/pause"] if sleeps else ["/pause"])


def test_servers_need_the_same_supported_backend(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against weights that reach only half of the servers, and backends without a sender."""
    fakes[1].backend = "nccl"
    with pytest.raises(UserError, match="different weight transfer backends: nccl, rethink-files"):
        make_policy(qwen, *fakes[:2]).fleet.check_servers()
    fakes[0].backend = "sparse_nccl"
    with pytest.raises(UserError, match="'sparse_nccl' is not supported"):
        make_policy(qwen, fakes[0]).publish(1)


def test_workers_of_all_servers_have_different_ranks(qwen: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against two servers with the same ranks in one NCCL group; each has two workers."""
    policy = make_policy(qwen, *fakes)
    policy.fleet.init_weight_transfer_engine({"rank_offset": 1, "world_size": 7})
    assert [fake.init_info for fake in fakes] == [{"rank_offset": n, "world_size": 7} for n in (1, 3, 5)]
