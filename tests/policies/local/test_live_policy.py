"""Many threads over one engine: the same replies as a local policy's, and nothing left behind by those who leave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.policies.cancel import Cancellation, Cancelled, EngineStoppedError
from rethink.policies.local import LocalPolicy
from rethink.policies.local.live import LiveDecoder
from rethink.policies.local.live_policy import LivePolicy, open_live_policy
from rethink.policies.token_policy import Request
from rethink.types import Group, Sample, Sampling
from support.local_sampling import CAP, GREEDY, PROMPTS, SAMPLED, assert_same, prompt, with_many_stop_ids
from support.model_families import build_family
from support.processes import wait_for


def without_stop_ids(live: LivePolicy) -> None:
    """Let every reply of a policy run up to its limit."""
    live.model.chat.stop_ids = frozenset()
    live.engine.decoder.stop_ids = live.engine.decoder.stop_ids[:0]


SAMPLINGS = [GREEDY, SAMPLED, Sampling(0.5, 11, top_p=0.9), Sampling(1.2, CAP, top_k=7)]


@pytest.fixture
def live(qwen: LanguageModel) -> Iterator[LivePolicy]:
    policy = open_live_policy(LocalPolicy(with_many_stop_ids(qwen), SAMPLED), 60, 60, 6)
    yield policy
    policy.close()


def test_replies_of_many_threads_equal_those_of_a_local_policy(live: LivePolicy, qwen: LanguageModel) -> None:
    """Guards against replies that depend on what other threads ask, or on how groups are split (9 of at most 6 rows)."""
    local = LocalPolicy(qwen, SAMPLED)
    jobs = [(PROMPTS[k % 5 :][:2], 1 + 4 * (k % 3), SAMPLINGS[k % 4]) for k in range(16)]
    assert max(n for _, n, _ in jobs) == 9

    def ask(job: Any) -> list[Group]:
        return live.for_call(Cancellation()).sample(*job)

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(ask, jobs))
    for job, groups in zip(jobs, found, strict=True):
        expected = local.sample(*job)
        for ours, theirs in zip(groups, expected, strict=True):
            assert_same(ours, theirs)


def test_streams_equal_samples(live: LivePolicy, qwen: LanguageModel) -> None:
    """Guards against pieces that do not add up to the reply that `sample` returns."""

    def ask(k: int) -> tuple[Sample | None, str]:
        pieces: list[str] = []
        sample = live.for_call(Cancellation()).stream(PROMPTS[k % 5], SAMPLINGS[k % 4], pieces.append)
        return sample, "".join(pieces)

    with ThreadPoolExecutor(20) as threads:
        for k, (sample, text) in enumerate(threads.map(ask, range(20))):
            [[expected]] = LocalPolicy(qwen, SAMPLED).sample([PROMPTS[k % 5]], 1, SAMPLINGS[k % 4])
            assert sample is not None
            assert_same([sample], [expected])
            assert text == expected.text


def test_a_cancelled_call_frees_its_rows(live: LivePolicy, qwen: LanguageModel) -> None:
    """Guards against rows that are decoded for nobody, and a thread that waits forever."""
    without_stop_ids(live)
    cancellation = Cancellation()
    ended: list[BaseException] = []
    begun = threading.Event()

    def on_text(_: str) -> None:
        begun.set()
        time.sleep(0.01)

    def ask() -> None:
        try:
            live.for_call(cancellation).stream(PROMPTS[0], Sampling(1.0, 60), on_text)
        except Cancelled as err:
            ended.append(err)

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(60)
    cancellation.set()
    thread.join(60)
    assert len(ended) == 1
    wait_for(lambda: live.engine.n_running == live.engine.n_waiting == 0, 60)
    with pytest.raises(Cancelled):
        live.for_call(cancellation).sample(PROMPTS, 1)
    assert live.engine._calls == {}


def test_a_stop_string_ends_a_streamed_reply(live: LivePolicy, qwen: LanguageModel) -> None:
    """Guards against sampling up to the limit after the text that ends a reply; the text up to it is unchanged."""
    without_stop_ids(live)
    how = Sampling(1.0, 60)
    [[whole]] = LocalPolicy(qwen, how).sample([PROMPTS[1]], 1)
    words = whole.text.split()
    stop = " ".join(words[20:22])
    place = whole.text.index(stop)
    sample = live.for_call(Cancellation(), [stop]).stream(PROMPTS[1], how, lambda _: None)
    assert sample is not None
    assert len(sample.ids) < 40
    assert sample.ids == whole.ids[: len(sample.ids)]
    assert sample.text[: place + len(stop)] == whole.text[: place + len(stop)]


def test_overlong_prompts_are_skipped(live: LivePolicy) -> None:
    """Guards against an assertion in the engine's thread, which would fail the requests of all others."""
    long = prompt(" ".join(["1"] * 70), 0)
    policy = live.for_call(Cancellation())
    assert policy.stream(long, None, lambda _: None) is None
    groups = policy.sample([long, PROMPTS[0]], 1)
    assert [len(group) for group in groups] == [0, 1]
    with pytest.raises(UserError, match="exceed the limits of 60 and 60"):
        policy.sample(PROMPTS, 1, Sampling(max_tokens=61))


def test_an_error_of_a_step_fails_its_requests_only(
    live: LivePolicy, qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a server that hangs after one failed step (out of memory, say)."""
    step = LiveDecoder.step

    def fail(decoder: LiveDecoder) -> list[Any]:
        monkeypatch.setattr(LiveDecoder, "step", step)
        raise MemoryError("no room")

    monkeypatch.setattr(LiveDecoder, "step", fail)
    with pytest.raises(MemoryError):
        live.for_call(Cancellation()).sample(PROMPTS, 2)
    ours = live.for_call(Cancellation()).sample(PROMPTS, 2)
    for group, expected in zip(ours, LocalPolicy(qwen, SAMPLED).sample(PROMPTS, 2), strict=True):
        assert_same(group, expected)


def test_an_engine_without_a_new_decoder_ends(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against requests that wait for a thread that has died: the step fails, and no other decoder can be opened."""
    live = open_live_policy(LocalPolicy(qwen, SAMPLED), 60, 60, 4)

    def fail(*args: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(LiveDecoder, "step", fail)
    monkeypatch.setattr(live.engine, "_open_decoder", fail)
    with pytest.raises(MemoryError):
        live.sample(PROMPTS, 2)
    wait_for(lambda: live.engine.has_failed, 60)
    errors: list[EngineStoppedError] = []
    for _ in range(2):  # a request that is refused shows nothing of those before it
        with pytest.raises(EngineStoppedError, match="the engine has stopped: no room") as caught:
            live.sample(PROMPTS, 2)
        errors.append(caught.value)
    assert errors[0] is not errors[1]
    live.close()


def test_a_call_that_is_over_cancels_no_other_one(qwen: LanguageModel) -> None:
    """Guards against a new decoder, which gives the same numbers to other calls: one of the old ones is cancelled late."""
    live = open_live_policy(LocalPolicy(qwen, SAMPLED), 60, 60, 4)
    old = live.engine.submit([(Request((1, 2, 3), 1, 0), SAMPLED)])
    list(old.items())
    live.engine.decoder._n_added = 0
    new = live.engine.submit([(Request((1, 2, 3), 1, 0), SAMPLED)])
    live.engine.cancel(old)
    assert len(list(new.items())) == 1
    live.close()


def test_a_closed_engine_ends_its_calls(qwen: LanguageModel) -> None:
    """Guards against threads that wait for an engine that has ended."""
    qwen.chat.stop_ids = frozenset()
    live = open_live_policy(LocalPolicy(qwen, SAMPLED), 60, 60, 2)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(live.sample, PROMPTS, 40, Sampling(1.0, 60))
        wait_for(lambda: live.engine.n_running > 0, 60)
        live.close()
        assert isinstance(waiting.exception(60), Cancelled)
    assert not live.engine.has_failed
    with pytest.raises(UserError, match="closed"):
        live.sample(PROMPTS, 1)


def test_a_model_with_its_own_cache_is_refused() -> None:
    """Guards against a crash in the engine's thread at the first request: such rows cannot join while others run."""
    with pytest.raises(UserError, match="serve it with vLLM"):
        open_live_policy(LocalPolicy(build_family("LFM2"), SAMPLED), 60, 60, 2)
