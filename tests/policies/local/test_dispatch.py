"""Requests dispatched to several threads: the same samples as in one, collected in order."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rethink.models.language_model import LanguageModel
from rethink.policies.local import LocalPolicy, policy
from rethink.policies.local.dispatch import Finished, GroupCollector, Part, dispatch, shard_requests
from rethink.policies.local.prefill import Prefiller
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling
from support.local_sampling import PROMPTS, assert_same, prompt, record_forward_passes, row_bytes, with_many_stop_ids

WAIT = 60
"""Seconds after which a test gives up on a thread; none of them waits when all is well."""


def requests_of(sizes: Sequence[int], first: int = 0) -> list[Request]:
    return [Request((i + 2, 3), n, seed=100 + i, first=first) for i, n in enumerate(sizes)]


def reply(i: int, member: int) -> Generation:
    """A reply whose ids say which request and member it belongs to."""
    return Generation([i, member], [-1.0, -2.0], True)


SIZES = st.lists(st.integers(1, 13), min_size=1, max_size=9)


@given(sizes=SIZES, first=st.sampled_from([0, 5]), n=st.integers(1, 9), room=st.integers(1, 15), data=st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_shards_contain_every_member_once(sizes: list[int], first: int, n: int, room: int, data: st.DataObject) -> None:
    """Guards against members that are lost or doubled, and groups that are split without need."""
    requests = requests_of(sizes, first)
    order = data.draw(st.permutations(range(len(sizes))))
    shares = shard_requests(requests, order, n, room)
    parts = [part for share in shares for part in share]
    dealt = Counter((i, request.first + g) for i, request in parts for g in range(request.n))
    assert dealt == Counter((i, first + g) for i, size in enumerate(sizes) for g in range(size))
    assert all(
        (request.ids, request.seed) == (requests[i].ids, requests[i].seed) and 1 <= request.n <= room
        for i, request in parts
    )
    assert all(shares)
    assert len(shares) == min(n, len(parts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if len(sizes) >= n and max(sizes) <= room:
        assert sorted(parts, key=lambda part: part[0]) == list(enumerate(requests))
    # Shares follow the order round by round: what comes first is sampled first.
    rounds = [share[k] for k in range(max(map(len, shares))) for share in shares if k < len(share)]
    assert [i for i, _ in rounds] == sorted((i for i, _ in rounds), key=order.index)
    if sum(min(size, -(-n // len(sizes))) for size in sizes) >= n:
        assert len(shares) == n, "no thread may be idle"


@given(sizes=SIZES, first=st.sampled_from([0, 5]), n=st.integers(1, 9), room=st.integers(1, 15), data=st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_groups_are_collected_in_order(sizes: list[int], first: int, n: int, room: int, data: st.DataObject) -> None:
    """Guards against members in order of arrival, and groups that are yielded early, late or twice."""
    requests = requests_of(sizes, first)
    dealt = [part for share in shard_requests(requests, range(len(sizes)), n, room) for part in share]
    collector = GroupCollector(requests)
    missing = Counter(dict(enumerate(sizes)))
    for i, request in data.draw(st.permutations(dealt)):
        found = collector.add((i, request), [reply(i, request.first + g) for g in range(request.n)])
        missing[i] -= request.n
        assert found == (None if missing[i] else [reply(i, first + g) for g in range(sizes[i])])


@pytest.fixture
def two_cores() -> Iterator[None]:
    """Two torch threads, as on a machine with two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """A worker for even a few rows; return the threads in which decoders are opened."""
    seen: list[threading.Thread] = []
    decoder = policy.Decoder  # type: ignore[attr-defined]

    def record(*rest: Any) -> Any:
        seen.append(threading.current_thread())
        return decoder(*rest)

    monkeypatch.setattr(policy, "MIN_NUMBERS", 1)
    monkeypatch.setattr(policy, "Decoder", record)
    return seen


@pytest.mark.parametrize(("n_prompts", "n"), [(5, 3), (1, 7), (2, 1)])
@pytest.mark.usefixtures("two_cores")
def test_samples_do_not_depend_on_the_number_of_threads(
    any_model: LanguageModel, small_shares: list[threading.Thread], n_prompts: int, n: int
) -> None:
    """Guards against samples that depend on the cores, and groups at the wrong index."""
    model, sampling = with_many_stop_ids(any_model), Sampling(max_tokens=19)
    torch.set_num_threads(1)
    alone = LocalPolicy(model, sampling).sample(PROMPTS[:n_prompts], n)
    assert small_shares == [threading.current_thread()]
    torch.set_num_threads(2)
    several = LocalPolicy(model, sampling)
    for _ in range(2):
        groups = list(several.groups(PROMPTS[:n_prompts], n))
        assert sorted(i for i, _ in groups) == list(range(n_prompts))
        found = dict(groups)
        assert_same([s for i in range(n_prompts) for s in found[i]], [s for g in alone for s in g])
    assert len(small_shares) == 1 + 2 * 2  # two shares each time; a thread that is done early takes the next one
    assert threading.current_thread() not in small_shares[1:]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_cores", "small_shares")
def test_threads_share_the_cache_and_sum_their_counts(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a cache limit for each thread, and one thread's counts. Prompts have 7, 5, 13, 6 and 8 tokens."""
    asked: list[int] = []
    decoder = policy.Decoder  # type: ignore[attr-defined]

    def record(*rest: Any) -> Any:
        asked.append(rest[5])
        return decoder(*rest)

    monkeypatch.setattr(policy, "Decoder", record)
    sampler = LocalPolicy(qwen, Sampling(max_tokens=3), cache_bytes=row_bytes(1000))
    sampler.sample(PROMPTS, 2)
    assert asked == [500, 500]
    assert (sampler.n_prefilled_tokens, sampler.n_reused_tokens) == (39, 0)


@pytest.mark.usefixtures("two_cores")
def test_prefix_cache_and_streams_use_one_thread(qwen: LanguageModel, small_shares: list[threading.Thread]) -> None:
    """Guards against a prefix cache, or a callback, that two threads use at once."""
    sampler = LocalPolicy(qwen, Sampling(max_tokens=3))
    with sampler.reuse_prefixes():
        sampler.sample(PROMPTS, 2)
    sampler.stream(PROMPTS[0], None, lambda part: None)
    assert small_shares == [threading.current_thread()] * 2


class Stepwise:
    """A decoder whose steps call `do(first seed, number of the step)`, which returns the finished requests."""

    def __init__(self, some: Sequence[Request], do: Callable[[int, int], list[int]], n_steps: int) -> None:
        self.seed, self.do, self.n_steps, self.n_done = some[0].seed, do, n_steps, 0

    @property
    def is_done(self) -> bool:
        return self.n_done == self.n_steps

    def step(self) -> list[tuple[int, list[Generation]]]:
        self.n_done += 1
        return [(k, [reply(k, 0)]) for k in self.do(self.seed, self.n_done)]


def opener(opened: list[Stepwise], do: Callable[[int, int], list[int]], n_steps: int = 10**9) -> Any:
    """Return a function that opens decoders and keeps them in `opened`."""

    def open_decoder(some: Sequence[Request], prefiller: Prefiller) -> Stepwise:
        opened.append(Stepwise(some, do, n_steps))
        return opened[-1]

    return open_decoder


def two_parts() -> list[list[Part]]:
    return shard_requests(requests_of([1, 1]), [0, 1], 2, 5)


def test_an_error_in_a_thread_stops_the_others() -> None:
    """Guards against a hidden error, and a thread that continues: the other has a billion steps left."""
    started = Event()

    def do(seed: int, step: int) -> list[int]:
        if seed == 100:
            assert started.wait(WAIT)
            raise KeyError("the cause")
        started.set()
        return []

    for order in (two_parts(), two_parts()[::-1]):
        started.clear()
        with pytest.raises(KeyError, match="the cause"):
            list(dispatch(order, opener([], do), Prefiller(), in_caller_thread=True))


def test_a_group_arrives_while_others_are_decoded() -> None:
    """Guards against a sampler that waits for its caller: here it continues while replies are graded."""
    (share,) = shard_requests(requests_of([1, 1]), range(2), 1, 9)
    graded = Event()

    def do(seed: int, step: int) -> list[int]:
        if step == 2:
            assert graded.wait(WAIT)
        return [step - 1]

    found: list[Finished] = []
    for finished in dispatch([share], opener([], do, 2), Prefiller(), in_caller_thread=False):
        found.append(finished)
        graded.set()
    assert [part for part, _ in found] == share


@pytest.mark.parametrize("how", ["closed", KeyError, KeyboardInterrupt])
def test_closing_stops_all_threads(how: Any) -> None:
    """Guards against threads that continue after the caller has stopped: both have a billion steps left."""
    opened: list[Stepwise] = []
    open_decoder = opener(opened, lambda seed, step: [0] if (seed, step) == (100, 1) else [])
    found = dispatch(two_parts(), open_decoder, Prefiller(), in_caller_thread=True)
    assert next(found)[0][0] == 0
    if how == "closed":
        found.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(how):
            found.throw(how)  # type: ignore[attr-defined]
    n_done = [decoder.n_done for decoder in opened]
    assert [decoder.n_done for decoder in opened] == n_done, "the threads have ended"
    assert list(found) == []


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.usefixtures("two_cores", "small_shares")
def test_groups_arrive_early_and_closing_stops_sampling(qwen: LanguageModel, n_threads: int) -> None:
    """Guards against sampling everything first, and a policy that is unusable after it was closed."""
    torch.set_num_threads(n_threads)
    model = with_many_stop_ids(qwen)
    sampler = LocalPolicy(model, Sampling(max_tokens=19), cache_bytes=row_bytes(200 * n_threads))
    expected = sampler.sample(PROMPTS, 3)
    asked = [prompt("2 3 -> 5", seed) for seed in range(50)]
    with record_forward_passes(model) as whole:
        assert len(list(sampler.groups(asked, 3))) == 50
    with record_forward_passes(model) as begun:
        groups = sampler.groups(asked, 3)
        assert not begun, "nothing is sampled before it is asked for"
        _, group = next(groups)
        assert len(group) == 3
        groups.close()  # type: ignore[attr-defined]
        n_begun = len(begun)
    assert 0 < n_begun < len(whole) / 2
    assert_same([s for g in sampler.sample(PROMPTS, 3) for s in g], [s for g in expected for s in g])
