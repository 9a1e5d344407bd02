"""The policy over an endpoint: one request per sample, many at a time, again where a failure may pass."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import httpx2

from rethink.errors import UserError
from rethink.policies.endpoint.event_loop import run_apart, together
from rethink.policies.endpoint.protocol import (
    YIELDING,
    Fault,
    Key,
    Read,
    Reply,
    completions_url,
    is_loopback,
    read_whole,
    refused_parameter,
    refuses_to_continue,
    request_body,
)
from rethink.policies.endpoint.stream import Listen, Reading
from rethink.seeds import rng
from rethink.types import Group, Prompt, Sample, Sampling

CONNECT_S = 30.0
LONGEST_DELAY_S = 60.0
LONGEST_WAIT_S = 3600.0
"""A server that asks for more patience than this has run out for the day: an error."""


class EndpointPolicy:
    """Samples from an OpenAI-compatible chat-completions endpoint. It cannot be trained: its version is -1 for ever, and
    its samples have text and usage but no ids. Of a reply only the content counts, not the reasoning beside it. A prompt
    that ends with a turn of the assistant is asked to be continued as vLLM and SGLang understand it; the sample's text is
    the continuation alone. Other servers refuse this (UserError), or ignore it and begin a new turn unnoticed.

    Up to `concurrency` requests of a call are under way at a time, each for at most `timeout_s`. A failure that may pass
    (a refused, cut or silent connection, HTTP 408, 409, 425, 429 and 5xx, an answer that is no chat completion) is tried
    again up to `retries` times, after `base_delay_s` that doubles each time up to a minute, less up to half of it, or
    after what Retry-After says if that is longer; after a 429 every request of this policy waits. All else raises
    UserError, and what is under way is dropped. With temperatures above 0 samples repeat as far as the server heeds the
    seed, which derives from the prompt's seed and the sample's index.

    A prompt that the server finds too long for the model's context is skipped and counted in `n_overlong`, or refused.
    `key` goes into requests only; `key_variable` names the environment variable it comes from, for messages. `warn` is
    told, once each, of parameters that the server refuses and that are then left out, of the first over-long prompt, and
    of waits above a minute that the server demands. `clock` tells seconds since 1970.
    """

    def __init__(
        self,
        url: str,
        model: str,
        sampling: Sampling,
        *,
        key: str = "",
        key_variable: str = "",
        concurrency: int = 16,
        timeout_s: float = 600,
        retries: int = 6,
        overlong: Literal["skip", "refuse"] = "skip",
        warn: Callable[[str], None] = warnings.warn,
        base_delay_s: float = 1.0,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if concurrency < 1 or retries < 0 or timeout_s <= 0:
            raise UserError("an endpoint needs concurrency of at least 1, retries of at least 0, timeout_s above 0")
        self._key = Key(key.strip())
        self._url = completions_url(url, self._key)
        self.model = model
        self.sampling = sampling
        self.key_variable = key_variable
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.retries = retries
        self.overlong = overlong
        self.warn = warn
        self.base_delay_s = base_delay_s
        self.version = -1
        self.n_overlong = 0
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._refused: frozenset[str] = frozenset()
        self._opens_at = 0.0

    @property
    def url(self) -> str:
        """Where requests go, without what may be secret in it."""
        return self._key.scrub(str(self._url.copy_with(userinfo=b"", query=None, fragment=None)))

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """One group of n replies per prompt, in order; an empty group for a prompt that was skipped as over-long.

        Raises UserError where the server refuses a request, or keeps failing."""
        return run_apart(self._sample_all(prompts, n, sampling or self.sampling, None))

    def stream(self, prompt: Prompt, sampling: Sampling | None, listen: Listen) -> Sample | None:
        """The sample that `sample([prompt], 1, sampling)` gives; None for a prompt that was skipped as over-long.

        `listen` is called with each piece of the text as it arrives, from another thread than the caller's; its time
        counts towards `timeout_s`, and what it raises is raised. Raises UserError as `sample` does, and for any failure
        after the first piece, since a second attempt would say things twice; a reply that has its finish reason counts
        as whole."""
        [group] = run_apart(self._sample_all([prompt], 1, sampling or self.sampling, listen))
        return group[0] if group else None

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """Raises UserError: an endpoint has no token ids to go on from."""
        raise UserError("samples of an endpoint cannot be continued")

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """A given reply as a sample of unknown usage, at temperature 1 from the full distribution."""
        sampling = Sampling(max_tokens=self.sampling.max_tokens)
        return self._as_sample(prompt, 0, Reply(reply, "stop", (None, None)), sampling)

    async def _sample_all(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, listen: Listen | None
    ) -> list[Group]:
        wanted = iter([(p, g) for p in range(len(prompts)) for g in range(n)])
        drawn: dict[tuple[int, int], Sample] = {}
        skipped: set[int] = set()

        async def work(client: httpx2.AsyncClient) -> None:
            for p, g in wanted:  # shared by all workers: each takes what is next
                if p in skipped:
                    continue
                sample = await self._sample_one(client, prompts[p], g, sampling, listen)
                if sample is not None:
                    drawn[p, g] = sample
                elif p not in skipped:
                    skipped.add(p)
                    self._count_overlong()

        async with self._client() as client:
            await together(work(client) for _ in range(min(self.concurrency, n * len(prompts))))
        return [() if p in skipped else tuple(drawn[p, g] for g in range(n)) for p in range(len(prompts))]

    async def _sample_one(
        self, client: httpx2.AsyncClient, prompt: Prompt, index: int, sampling: Sampling, listen: Listen | None
    ) -> Sample | None:
        """None for a prompt that is skipped as over-long. The reply is streamed where somebody listens."""
        faults: list[Fault] = []
        while True:
            await self._wait_for_opening()
            body = request_body(self.model, prompt, index, sampling, self._refused, stream=listen is not None)
            answer = await (self._ask(client, body, read_whole) if listen is None else self._hear(client, body, listen))
            if isinstance(answer, Reply):
                drawn_with = sampling if "top_k" in body else replace(sampling, top_k=0)
                return self._as_sample(prompt, index, answer, drawn_with)
            if answer.passing:
                faults.append(answer)
                await self._back_off(faults, prompt.seed, index)
            elif answer.overlong:
                self._report_overlong(prompt, answer)
                return None
            elif (name := refused_parameter(body, answer)) is not None:
                self._do_without(name)
            else:
                raise UserError(
                    f"{self.url} refuses a request: {answer.kind}: {answer.message}{self._hint(body, answer)}"
                )

    async def _hear(self, client: httpx2.AsyncClient, body: dict[str, Any], listen: Listen) -> Reply | Fault:
        reading = Reading(listen)
        answer = await self._ask(client, body, reading.read)
        if isinstance(answer, Fault) and reading.ended:
            return reading.whole()
        if isinstance(answer, Fault) and reading.told:
            raise UserError(
                f"{self.url} failed in the middle of a reply, which cannot be asked for again without saying things "
                f"twice: {answer.kind}: {answer.message}"
            )
        return answer

    async def _ask(self, client: httpx2.AsyncClient, body: dict[str, Any], read: Read) -> Reply | Fault:
        limit = asyncio.timeout(self.timeout_s)
        try:
            async with limit, client.stream("POST", self._url, content=json.dumps(body).encode()) as answer:
                got = await read(answer, self._clock())
        except TimeoutError:
            if not limit.expired():  # the listener's own
                raise
            return Fault("time-out", f"no whole answer within {self.timeout_s:g} s")
        except httpx2.RequestError as err:
            return Fault(type(err).__name__, self._fit_to_show(str(err)))
        return got if isinstance(got, Reply) else replace(got, message=self._fit_to_show(got.message))

    def _fit_to_show(self, message: str) -> str:
        """Without the key, on one line, not too long. The key goes first: half of it would not be found."""
        line = " ".join(self._key.scrub(message).split())
        return line if len(line) <= 500 else line[:500] + "..."

    async def _wait_for_opening(self) -> None:
        while (wait := self._opens_at - self._clock()) > 0:
            await self._sleep(wait)

    async def _back_off(self, faults: Sequence[Fault], seed: int, index: int) -> None:
        """Wait before the next attempt. Raises UserError where there is none, or where the server asks for too much."""
        last, attempt = faults[-1], len(faults)
        if attempt > self.retries:
            raise UserError(self._surrender(faults))
        jitter = 1 - rng(seed, index, attempt, "back-off").random() / 2
        delay = min(self.base_delay_s * 2 ** (attempt - 1), LONGEST_DELAY_S) * jitter
        stated = delay if last.wait_s is None else last.wait_s
        if stated > LONGEST_WAIT_S:
            raise UserError(f"{self.url} answers {last.kind} and asks to wait {stated:.0f} s: {last.message}")
        if last.status == 429:
            self._close_until(self._clock() + stated)
        await self._sleep(max(stated, delay))

    def _close_until(self, moment: float) -> None:
        with self._lock:
            further = moment - max(self._opens_at, self._clock())
            self._opens_at = max(self._opens_at, moment)
        if further > LONGEST_DELAY_S:
            self.warn(f"the endpoint asks to wait {further:.0f} s before the next request")

    def _do_without(self, name: str) -> None:
        with self._lock:
            known = name in self._refused
            self._refused |= {name}
        if not known:
            self.warn(YIELDING[name])

    def _report_overlong(self, prompt: Prompt, fault: Fault) -> None:
        if self.overlong == "refuse":
            raise UserError(
                f"the {prompt.phase} prompt of problem {prompt.problem.id} is too long for {self.model} at {self.url}: "
                f"{fault.message}; lower sampling.max_tokens if that is what binds, or set overlong to skip"
            )
        if self.n_overlong == 0:
            self.warn(f"the endpoint finds a prompt too long; such prompts are skipped and counted: {fault.message}")

    def _count_overlong(self) -> None:
        with self._lock:
            self.n_overlong += 1

    def _surrender(self, faults: Sequence[Fault]) -> str:
        counts = Counter(fault.kind for fault in faults)
        what = ", ".join(f"{kind} ({n} times)" if n > 1 else kind for kind, n in counts.items())
        return f"gave up on {self.url} after {len(faults)} attempts: {what}; the last: {faults[-1].message}"

    def _hint(self, body: dict[str, Any], fault: Fault) -> str:
        if refuses_to_continue(body, fault):
            return "; it cannot continue a turn of the assistant: a server such as vLLM or a local model can"
        if fault.status in (401, 403):
            source = self.key_variable or "the environment variable that the key is read from"
            return f"; check {source}" if self._key.value else f"; no key was given: set {source}"
        if fault.status == 404:
            return f"; check the model's name, {self.model!r}, and the URL"
        return ""

    def _client(self) -> httpx2.AsyncClient:
        try:
            return httpx2.AsyncClient(
                headers={"Content-Type": "application/json", **self._key.header()},
                timeout=httpx2.Timeout(None, connect=min(self.timeout_s, CONNECT_S)),
                limits=httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency),
                trust_env=not is_loopback(self._url.host),  # proxies of the environment are for other machines
            )
        except (ValueError, ImportError, httpx2.InvalidURL):
            pass
        raise UserError("no proxy can be made of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY; correct or unset them")

    def _as_sample(self, prompt: Prompt, index: int, reply: Reply, sampling: Sampling) -> Sample:
        return Sample(
            prompt=prompt,
            index=index,
            prompt_ids=(),
            ids=(),
            mask=(),
            log_probs=(),
            text=reply.text,
            stop=reply.stop,
            sampling=sampling,
            version=self.version,
            usage=reply.usage,
        )
