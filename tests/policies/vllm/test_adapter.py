"""Publishing only the adapter of a LoRA model, with fake servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models import lora
from rethink.models.language_model import LanguageModel
from rethink.policies.vllm import start
from rethink.policies.vllm.adapter import MAX_RANKS, max_lora_rank
from rethink.policies.vllm.colocated import ColocatedModel, StartError
from rethink.policies.vllm.policy import VllmPolicy
from rethink.policies.vllm.server import Server
from rethink.policies.vllm.start import open_vllm
from rethink.settings import Lora, Sampler
from rethink.types import Sampling
from support.fake_vllm import FakeVllm, running
from support.vllm_policy import PROMPTS, PUBLISH, without_delays

pytest.importorskip("peft", reason="the extra peft is not installed")

_no_delays = pytest.fixture(autouse=True)(without_delays)

MODULES = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
LOAD = ["/v1/load_lora_adapter", "/update_weight_version", "/reset_prefix_cache", "/resume"]
TRIAL = ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]


@pytest.fixture
def adapted(qwen: LanguageModel) -> LanguageModel:
    """A model with an adapter of rank 3 that is not zero."""
    found = lora.add_adapter(qwen, Lora(rank=3, alpha=5.0), seed=5)
    draw(found, 7)
    return found


def draw(model: LanguageModel, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in lora.adapter_parameters(model.module).values():
            p.copy_(torch.randn(p.shape, generator=generator))


@pytest.fixture
def fakes(qwen: LanguageModel) -> Iterator[list[FakeVllm]]:
    """Two servers that load adapters up to rank 8."""
    (stop_id,) = qwen.chat.stop_ids
    with ExitStack() as stack:
        found = [stack.enter_context(running(FakeVllm(stop_id))) for _ in range(2)]
        for fake in found:
            fake.lora = {"max_lora_rank": 8, "lora_dtype": "torch.float32", "target_modules": MODULES}
        yield found


def open_over(model: LanguageModel, *fakes: FakeVllm, transfer: Any = "auto", warn: Any = pytest.fail) -> VllmPolicy:
    settings = Sampler("vllm", urls=tuple(fake.url for fake in fakes), timeout_s=20.0, transfer=transfer)
    return open_vllm(settings, model, [Sampling(max_tokens=11)], path="", warn=warn)


def sent(fake: FakeVllm) -> dict[str, Tensor]:
    """Return the adapter that the server would sample with, under the names in the model."""
    _, tensors = fake.adapters[fake.label]
    return {
        name.removeprefix("base_model.model.").replace(".weight", ".default.weight"): tensor
        for name, tensor in tensors.items()
    }


def test_only_the_adapter_is_sent(adapted: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against base weights in each update, old values, a wrong scale, and servers without the newest version."""
    policy = open_over(adapted, *fakes)
    assert [fake.events for fake in fakes] == [TRIAL, TRIAL]
    policy.publish(1)
    for fake in fakes:
        assert fake.events == [*TRIAL, "/pause", *LOAD]
    draw(adapted, 11)
    policy.publish(2)
    parameters = lora.adapter_parameters(adapted.module)
    for fake in fakes:
        assert fake.events[-6:] == ["/pause", "/v1/unload_lora_adapter", *LOAD]
        assert not fake.weights
        assert not fake.paused
        assert list(fake.adapters) == [fake.label]
        assert sent(fake).keys() == parameters.keys()
        assert all(torch.equal(tensor, parameters[name]) for name, tensor in sent(fake).items())
        config, _ = fake.adapters[fake.label]
        assert (config["r"], config["lora_alpha"]) == (3, 5)


def test_a_restarted_server_must_know_all_layers(adapted: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Regression: a server restarted for other layers loaded the adapter, and ignored what it has of the others."""
    warnings: list[str] = []
    policy = open_over(adapted, *fakes, warn=warnings.append)
    policy.publish(1)
    fakes[0].kill()
    policy.sample(PROMPTS, 3)
    fakes[0].lora = {"max_lora_rank": 8, "lora_dtype": "torch.float32", "target_modules": MODULES[1:]}
    fakes[0].start()
    policy.publish(2)
    assert f"was started without --lora-target-modules {' '.join(MODULES)}" in warnings[-1]
    n_before = len(fakes[0].requests)
    policy.sample(PROMPTS, 3)
    assert (fakes[0].adapters, len(fakes[0].requests)) == ({}, n_before)


def test_requests_name_the_published_version(adapted: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against samples and scores of the base model or of the version before."""
    policy = open_over(adapted, fakes[0])
    for version in (1, 2):
        policy.publish(version)
        fakes[0].requests.clear()
        ((sample, *_), *_) = policy.sample(PROMPTS, 2)
        policy.score([sample])
        names = {body.get("model") for body in fakes[0].requests}
        assert names == {fakes[0].label}
        assert fakes[0].label.endswith(f"/{version}")
        assert sample.version == version


def test_versions_never_share_a_name_or_folder(
    adapted: LanguageModel, fakes: list[FakeVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against keys and values of another version: vLLM finds cached ones by the adapter's name and folder. An old
    folder does not stay."""
    loaded: list[tuple[str, Path]] = []
    load = Server.load_adapter

    def record(server: Server, label: str, folder: Path) -> None:
        loaded.append((label, folder))
        load(server, label, folder)

    monkeypatch.setattr(Server, "load_adapter", record)
    policy = open_over(adapted, fakes[0])
    for version in (1, 2, 3):
        policy.publish(version)
    again = open_over(adapted, fakes[0])
    again.publish(3)
    labels, folders = zip(*loaded, strict=True)
    assert len(set(labels)) == len(set(folders)) == 6
    assert [folder.exists() for folder in folders] == [False, False, False, True, False, True]
    policy.close()
    again.close()
    assert not any(folder.exists() for folder in folders)


def test_adapters_are_sent_in_the_dtype_of_the_server(adapted: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against twice the bytes for a server in bfloat16."""
    fakes[0].lora = {"max_lora_rank": 8, "lora_dtype": "torch.bfloat16", "target_modules": MODULES}
    open_over(adapted, fakes[0]).publish(1)
    assert {tensor.dtype for tensor in sent(fakes[0]).values()} == {torch.bfloat16}


def test_a_restarted_server_is_not_sampled_from(adapted: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a run that ends because one server has lost its adapter, and against samples of the base model."""
    warnings: list[str] = []
    policy = open_over(adapted, *fakes, warn=warnings.append)
    policy.publish(1)
    fakes[0].kill()
    fakes[0].start()
    assert [len(group) for group in policy.sample(PROMPTS, 3)] == [3] * 5
    assert "wrong weights: it no longer has the adapter" in warnings[0]
    policy.publish(2)
    assert [list(fake.adapters) for fake in fakes] == [[policy.fleet.label]] * 2
    assert len(warnings) == 1


def test_weights_of_another_run_are_noticed(adapted: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against an adapter over a base that another run has replaced, before or between updates."""
    policy = open_over(adapted, fakes[0], warn=lambda _: None)
    policy.publish(1)
    merged = open_over(adapted, fakes[0], transfer="merged")
    merged.publish(1)
    with pytest.raises(UserError, match="wrong weights"):
        policy.sample(PROMPTS, 1)
    with pytest.raises(UserError, match="a run has replaced its base model's weights"):
        open_over(adapted, fakes[0], transfer="adapter")
    assert open_over(adapted, fakes[0]).fleet.adapter is None


def without_lora(fake: FakeVllm) -> None:
    fake.lora = None


def with_small_rank(fake: FakeVllm) -> None:
    assert fake.lora is not None
    fake.lora["max_lora_rank"] = 1


def with_all_layers(fake: FakeVllm) -> None:
    assert fake.lora is not None
    fake.lora["target_modules"] = None


def with_fewer_layers(fake: FakeVllm) -> None:
    assert fake.lora is not None
    fake.lora["target_modules"] = MODULES[1:]


def without_routes(fake: FakeVllm) -> None:
    fake.answers["/v1/load_lora_adapter"] = [(404, {"detail": "Not Found"})]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_lora, "was started without --enable-lora"),
        (with_small_rank, "LoRA rank 3 is too large"),
        (with_all_layers, "was started without --lora-target-modules down_proj gate_proj"),
        (with_fewer_layers, "was started without --lora-target-modules down_proj gate_proj"),
        (without_routes, "Not Found"),
    ],
)
def test_servers_that_cannot_use_the_adapter(
    change: Any, reason: str, adapted: LanguageModel, fakes: list[FakeVllm]
) -> None:
    """Guards against a run that ends with "auto" where merged weights work, or goes on merged where only the adapter
    was asked for; either says why. All servers get the same."""
    change(fakes[1])
    with pytest.raises(UserError) as caught:
        open_over(adapted, *fakes, transfer="adapter")
    assert all(text in str(caught.value) for text in (reason, fakes[1].url, "--enable-lora", "sampler.transfer=merged"))
    change(fakes[1])
    policy = open_over(adapted, *fakes)
    assert policy.fleet.adapter is None
    assert reason in policy.fleet.merged_because
    policy.publish(1)
    for fake in fakes:
        assert fake.weights.keys() == dict(adapted.base.module.named_parameters()).keys()  # type: ignore[union-attr]
        assert fake.events[-len(PUBLISH) :] == PUBLISH
    policy.sample(PROMPTS, 1)
    assert all("model" not in body for fake in fakes for body in fake.requests)


def test_merged_sends_all_weights(adapted: LanguageModel, fakes: list[FakeVllm]) -> None:
    """Guards against a setting that a capable server overrides."""
    policy = open_over(adapted, fakes[0], transfer="merged")
    policy.publish(1)
    assert fakes[0].events == PUBLISH
    assert policy.fleet.merged_because == ""


def test_the_rank_is_rounded_up_to_one_of_vllms() -> None:
    """Guards against values of --max-lora-rank at which vLLM does not start."""
    for rank in range(1, 513):
        found = max_lora_rank(rank)
        assert found in MAX_RANKS
        assert found >= rank
        assert not any(rank <= smaller < found for smaller in MAX_RANKS)


@pytest.mark.parametrize("transfer", ["auto", "adapter", "merged"])
@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("can_start", [False, True])
def test_how_a_colocated_server_starts(
    transfer: Any,
    random: bool,
    can_start: bool,
    adapted: LanguageModel,
    fakes: list[FakeVllm],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards against --enable-lora where only merged weights can be sent, and a run that ends because of it: vLLM does not
    know the trainer's random weights, and does not start with LoRA for some architectures."""
    started: list[int] = []

    def start_one(model: ColocatedModel, settings: Sampler) -> Server:
        assert list(model.lora_modules) == (MODULES if model.max_lora_rank else [])
        started.append(model.max_lora_rank)
        if model.max_lora_rank and not can_start:
            raise StartError("does not support LoRA yet")
        return Server(fakes[0].url, timeout_s=20)

    monkeypatch.setattr(start, "start_colocated", start_one)
    monkeypatch.setattr(start, "check_settings", lambda _: None)
    settings = Sampler("vllm", transfer=transfer)
    possible = can_start and not random
    if transfer == "adapter" and not possible:
        with pytest.raises(UserError, match="random weights" if random else "does not support LoRA yet"):
            open_vllm(settings, adapted, [Sampling(max_tokens=7)], path="a/model", random=random)
        return
    policy = open_vllm(settings, adapted, [Sampling(max_tokens=7)], path="a/model", random=random)
    assert (policy.fleet.adapter is not None) == (possible and transfer != "merged")
    tries = [] if random or transfer == "merged" else [8]
    assert started == (tries if policy.fleet.adapter else [*tries, 0])


def test_the_files_are_those_of_a_checkpoint(adapted: LanguageModel, tmp_path: Path) -> None:
    """Guards against an adapter for vLLM that differs from the one that a checkpoint keeps."""
    lora.save(adapted, tmp_path)
    (tmp_path / "sent").mkdir()
    lora.write_adapter(
        tmp_path / "sent", adapted.module.peft_config["default"], lora.adapter_parameters(adapted.module)
    )
    for name in (lora.CONFIG, lora.WEIGHTS):
        assert (tmp_path / name).read_bytes() == (tmp_path / "sent" / name).read_bytes()
    assert json.loads((tmp_path / lora.CONFIG).read_text())["target_modules"]
