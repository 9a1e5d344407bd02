"""Work on several cores: dealt out, put together again, and the same as on one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from threading import Event
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.local.test_policy import PROMPTS, assert_same, forwards, prompt, with_many_ends
from rethink import threads
from rethink.models.language_model import LanguageModel
from rethink.policies.local import LocalPolicy, policy
from rethink.policies.local.dispatch import Finished, GroupCollector, Part, dispatch, shard_requests
from rethink.policies.local.prefill import Prefiller
from rethink.policies.token_policy import Generation, Request
from rethink.threads import Stopped
from rethink.types import Sampling

WAIT = 60
"""Seconds after which a test gives up on a thread; none of them waits when all is well."""


def requests_of(sizes: Sequence[int], first: int = 0) -> list[Request]:
    return [Request((i + 2, 3), n, seed=100 + i, first=first) for i, n in enumerate(sizes)]


def reply(i: int, member: int) -> Generation:
    """A reply that tells whose it is."""
    return Generation([i, member], [-1.0, -2.0], True)


def replies_to(part: Part) -> list[Generation]:
    i, request = part
    return [reply(i, request.first + g) for g in range(request.n)]


SIZES = st.lists(st.integers(1, 13), min_size=1, max_size=9)


@given(sizes=SIZES, first=st.sampled_from([0, 5]), n=st.integers(1, 9), room=st.integers(1, 15), data=st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_every_member_is_dealt_once(sizes: list[int], first: int, n: int, room: int, data: st.DataObject) -> None:
    """Guards against members that nobody draws, or two do, and groups that are split without need: the prompt would be
    computed for each part."""
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
    # Round by round the shares follow the order, so that what was asked for first is drawn first.
    rounds = [share[k] for k in range(max(map(len, shares))) for share in shares if k < len(share)]
    assert [i for i, _ in rounds] == sorted((i for i, _ in rounds), key=order.index)
    if sum(min(size, -(-n // len(sizes))) for size in sizes) >= n:
        assert len(shares) == n, "nobody is idle while there is something to share"


def joined(requests: Sequence[Request], parts: Sequence[Part]) -> list[tuple[int, list[Generation]]]:
    told: list[tuple[int, list[Generation]]] = []
    collector = GroupCollector(requests)
    missing = Counter({i: request.n for i, request in enumerate(requests)})
    for n, part in enumerate(parts):
        complete = collector.add(part, replies_to(part))
        if complete is not None:
            told.append((part[0], complete))
        missing[part[0]] -= part[1].n
        assert len(told) == sum(not missing[i] for i in range(len(requests))), f"at part {n}"
    return told


@given(sizes=SIZES, first=st.sampled_from([0, 5]), n=st.integers(1, 9), room=st.integers(1, 15), data=st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_replies_are_put_together_in_order(
    sizes: list[int], first: int, n: int, room: int, data: st.DataObject
) -> None:
    """Guards against groups in the order of arrival, and a group that is told of before it is complete, late, or twice."""
    requests = requests_of(sizes, first)
    dealt = [part for share in shard_requests(requests, range(len(sizes)), n, room) for part in share]
    told = joined(requests, data.draw(st.permutations(dealt)))
    assert sorted(i for i, _ in told) == list(range(len(sizes)))
    assert all(replies == [reply(i, first + g) for g in range(sizes[i])] for i, replies in told)


# In threads.


@pytest.fixture
def two_cores() -> Iterator[None]:
    """Two threads, as if the machine had as many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Even a few rows are worth a worker; the threads in which something was decoded."""
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
def test_workers_draw_what_one_draws(
    any_model: LanguageModel, small_shares: list[threading.Thread], n_prompts: int, n: int
) -> None:
    """Guards against samples that depend on how many cores there are, and groups in the wrong place, or twice."""
    model, sampling = with_many_ends(any_model), Sampling(max_tokens=19)
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
def test_workers_count_prompt_tokens_together(qwen: LanguageModel) -> None:
    """Guards against counts of one worker only. The prompts have 7, 5, 13, 6 and 8 tokens."""
    sampler = LocalPolicy(qwen, Sampling(max_tokens=3))
    sampler.sample(PROMPTS, 2)
    assert (sampler.n_prefilled_tokens, sampler.n_reused_tokens) == (39, 0)


@pytest.mark.usefixtures("two_cores")
def test_kept_prefixes_and_streams_stay_in_one_thread(
    qwen: LanguageModel, small_shares: list[threading.Thread]
) -> None:
    """Guards against a store, or a listener, that two threads use at once."""
    sampler = LocalPolicy(qwen, Sampling(max_tokens=3))
    with sampler.reuse_prefixes():
        sampler.sample(PROMPTS, 2)
    sampler.stream(PROMPTS[0], None, lambda part: None)
    assert small_shares == [threading.current_thread()] * 2


@pytest.mark.usefixtures("two_cores", "small_shares")
def test_workers_share_the_room(qwen: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a limit that each worker takes for its own."""
    asked: list[int] = []
    decoder = policy.Decoder  # type: ignore[attr-defined]

    def record(
        weights: Any, chat: Any, some: Any, sampling: Any, prefiller: Any, cache_tokens: int, graphs: Any
    ) -> Any:
        asked.append(cache_tokens)
        return decoder(weights, chat, some, sampling, prefiller, cache_tokens, graphs)

    monkeypatch.setattr(policy, "Decoder", record)
    # 2 layers, 2 heads, keys and values of 6 numbers of 4 bytes.
    LocalPolicy(qwen, Sampling(max_tokens=3), cache_bytes=1000 * 2 * 2 * 2 * 6 * 4).sample(PROMPTS, 2)
    assert asked == [500, 500]


class Stepwise:
    """A decoder that a test drives: what a step does is said by `do`, which gets the first seed and the number of the
    step, and returns what is finished. It is done after `n_steps`; `ended` hears at which step it was left."""

    def __init__(self, some: Sequence[Request], do: Callable[[int, int], list[int]], n_steps: int) -> None:
        self.seed, self.do, self.n_steps, self.n_done = some[0].seed, do, n_steps, 0

    @property
    def is_done(self) -> bool:
        return self.n_done == self.n_steps

    def step(self) -> list[tuple[int, list[Generation]]]:
        self.n_done += 1
        return [(k, [reply(k, 0)]) for k in self.do(self.seed, self.n_done)]


class Stepper:
    """Opens such decoders and remembers them."""

    def __init__(self, do: Callable[[int, int], list[int]], n_steps: int = 10**9) -> None:
        self.do, self.n_steps = do, n_steps
        self.opened: list[Stepwise] = []

    def __call__(self, some: Sequence[Request], prefiller: Prefiller) -> Any:
        self.opened.append(Stepwise(some, self.do, self.n_steps))
        return self.opened[-1]


def two_parts() -> list[list[Part]]:
    return shard_requests(requests_of([1, 1]), [0, 1], 2, 5)


def test_an_error_of_a_worker_stops_the_others() -> None:
    """Guards against an error that nobody sees, and a worker that goes on to its end for nothing: the other one has a
    billion steps to go."""
    started = Event()

    def do(seed: int, step: int) -> list[int]:
        if seed == 100:
            assert started.wait(WAIT)
            raise KeyError("the cause")
        started.set()
        return []

    for order in (two_parts(), two_parts()[::-1]):
        started.clear()
        open_decoder = Stepper(do)
        with pytest.raises(KeyError, match="the cause"):
            list(dispatch(order, open_decoder, Prefiller(), in_caller_thread=True))
        assert not any(decoder.is_done for decoder in open_decoder.opened)


def test_a_group_arrives_while_a_single_share_is_decoded() -> None:
    """Guards against a sampler on a GPU that waits while its replies are graded: here it goes on until they are."""
    (share,) = shard_requests(requests_of([1, 1]), range(2), 1, 9)
    graded = Event()

    def do(seed: int, step: int) -> list[int]:
        if step == 2:
            assert graded.wait(WAIT)
        return [step - 1]

    found: list[Finished] = []
    for finished in dispatch([share], Stepper(do, 2), Prefiller(), in_caller_thread=False):
        found.append(finished)
        graded.set()
    assert [part for part, _ in found] == share


@pytest.mark.parametrize("how", ["closed", KeyError, KeyboardInterrupt])
def test_a_caller_who_leaves_stops_all(how: Any) -> None:
    """Guards against workers that go on behind a caller who has given up: both have a billion steps to go."""
    open_decoder = Stepper(lambda seed, step: [0] if (seed, step) == (100, 1) else [])
    found = dispatch(two_parts(), open_decoder, Prefiller(), in_caller_thread=True)
    assert next(found)[0][0] == 0
    if how == "closed":
        found.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(how):
            found.throw(how)  # type: ignore[attr-defined]
    n_done = [decoder.n_done for decoder in open_decoder.opened]
    assert [decoder.n_done for decoder in open_decoder.opened] == n_done, "the threads have ended"
    assert list(found) == []


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.usefixtures("two_cores", "small_shares")
def test_groups_come_before_the_end_and_closing_ends_sampling(qwen: LanguageModel, n_threads: int) -> None:
    """Guards against an iterator that samples everything first, one that goes on when nobody wants more, and a sampler that
    cannot be used any more afterwards. Of 50 prompts one has been answered, and the room is for a few at a time."""
    torch.set_num_threads(n_threads)
    model = with_many_ends(qwen)
    sampler = LocalPolicy(model, Sampling(max_tokens=19), cache_bytes=200 * 2 * 2 * 2 * 6 * 4 * n_threads)
    expected = sampler.sample(PROMPTS, 3)
    asked = [prompt("2 3 -> 5", seed) for seed in range(50)]
    with forwards(model) as whole:
        assert len(list(sampler.groups(asked, 3))) == 50
    with forwards(model) as begun:
        groups = sampler.groups(asked, 3)
        assert not begun, "nothing is sampled before it is asked for"
        _, group = next(groups)
        assert len(group) == 3
        groups.close()  # type: ignore[attr-defined]
        n_begun = len(begun)
    assert 0 < n_begun < len(whole) / 2
    assert_same([s for g in sampler.sample(PROMPTS, 3) for s in g], [s for g in expected for s in g])


@pytest.mark.usefixtures("two_cores")
def test_results_come_in_order() -> None:
    """Guards against results in the order in which threads end: here the first ends last."""
    done = [Event() for _ in range(4)]

    def result(k: int, stop: Event) -> tuple[int, int]:
        assert k == 3 or done[k + 1].wait(WAIT)
        done[k].set()
        return k, threading.get_ident()

    results = threads.run([partial(result, k) for k in range(4)])
    assert [k for k, _ in results] == [0, 1, 2, 3]
    assert len({thread for _, thread in results} | {threading.get_ident()}) == 5
    assert threads.run([lambda stop: threading.get_ident()]) == [threading.get_ident()]


def test_the_first_error_is_raised_after_all_have_ended() -> None:
    """Guards against errors in the order of chance, a request to stop that hides what caused it, and a thread that still
    runs when the caller goes on."""
    ended: list[int] = []
    failed = [Event(), Event()]

    def fail(k: int, stop: Event) -> None:
        # The second error comes first.
        assert k == 1 or failed[1].wait(WAIT)
        ended.append(k)
        failed[k].set()
        raise (KeyError, IndexError)[k]

    def yield_to_others(stop: Event) -> None:
        assert stop.wait(WAIT)
        assert failed[0].wait(WAIT)
        ended.append(2)
        raise Stopped

    works: list[Callable[[Event], None]] = [yield_to_others, partial(fail, 0), partial(fail, 1)]
    with pytest.raises(KeyError):
        threads.run(works)
    assert sorted(ended) == [0, 1, 2]


@pytest.mark.usefixtures("two_cores")
def test_workers_have_a_share_of_the_cores_each() -> None:
    """Guards against threads that each use all cores, and a caller who is left with fewer than before. Regression: a thread
    took the number that was set last anywhere, when it first asked torch."""

    def count(stop: Event) -> int:
        return torch.get_num_threads()

    # Threads of their own for this test, which begin with something other than torch.
    threads._pool.cache_clear()
    threads.run([Event.is_set, Event.is_set])
    torch.set_num_threads(2)
    assert threads.run([count, count]) == [1, 1]
    assert torch.get_num_threads() == 2
    cpu = torch.device("cpu")
    assert [threads.n_workers(cpu, n) for n in (0, 1, 2, 5)] == [1, 1, 2, 2]
    assert threads.n_workers(torch.device("cuda"), 5) == 1
