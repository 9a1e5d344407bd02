"""The policy over an endpoint: one request per sample, many at a time, through the `openai` package."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import openai

from rethink.credentials import ApiKey, scrub
from rethink.errors import UserError
from rethink.policies.base import Policy
from rethink.policies.cancel import Cancellation
from rethink.policies.endpoint.connection import open_client
from rethink.policies.endpoint.explain import explain, served_models
from rethink.policies.endpoint.failures import Failures
from rethink.policies.endpoint.faults import Fault, cannot_continue, named_parameter
from rethink.policies.endpoint.messages import wire_message
from rethink.policies.endpoint.oddities import oddities
from rethink.policies.endpoint.protocol import (
    CONTINUE_TURN,
    FROM_SETTINGS,
    is_loopback,
    parse_url,
    sampling_parameters,
)
from rethink.policies.endpoint.replies import ServerReply, read_completion
from rethink.policies.endpoint.scoring import completion_log_probs, score_parameters
from rethink.policies.endpoint.sender import Sender
from rethink.policies.endpoint.stream import read_stream
from rethink.policies.event_loop import gather, iterate_in_thread, run_in_thread
from rethink.policies.prompt_log_probs import refuse_unscorable
from rethink.settings import Endpoint, Sampler
from rethink.types import Group, Prompt, Sample, Sampling, Verdict

PROBE = [{"role": "user", "content": "Reply with the word yes."}]
PROBE_S = 60.0
"""What is asked to see whether a server that fails on a prompt works at all, if it has answered no other prompt yet; and
the time that it may take."""
NO_IDS = (
    "samples of an endpoint have no token ids, so they cannot be continued, cut or put after another prompt; sample with a "
    "local model or vLLM"
)


class EndpointPolicy(Policy):
    """Sample from an OpenAI-compatible chat-completions endpoint.

    It cannot be trained: its version is always -1, and samples have text and usage but no token ids. The text is a reply's
    content, without separate reasoning. Samples repeat if the server honors the seed, which derives from the prompt's seed
    and the sample's index. A prompt that ends with an assistant turn is continued, by the parameters of vLLM and SGLang;
    other servers refuse them (UserError), or ignore them and silently start a new turn.

    Failures:
    - Transient ones (a refused, dropped or silent connection, HTTP 408, 409, 429, 5xx, an answer without a reply, a reply
      that the server did not finish) are retried up to `endpoint.retries` times, after 0.5 s, doubled up to 8 s, or after
      Retry-After, up to 2 minutes. All attempts of a request together take at most twice `endpoint.timeout_s`.
    - A prompt that keeps failing while the server answers others, that the server refuses, or whose reply it cuts short (a
      content filter) gives a sample that is not graded, with the server's reason. Several in a row raise UserError, and so
      does a server that answers nothing.
    - A prompt that is too long for the model is skipped and counted in `n_overlong`, or raises UserError (`overlong`).
    - A parameter that the server does not support is left out from then on. All other failures raise UserError.

    `stop` holds strings that end a reply, as far as the server honors them. `cancellation` ends the requests of
    `groups` and `stream`, which then raise Cancelled.

    `key` (default: the environment variable `endpoint.key_env`) is sent in requests and shown nowhere. `warn` is called
    once per parameter left out, and for the first prompt that is over-long or not graded. docs/endpoints.md lists what
    happens with which server's answer.
    """

    version = -1

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        sampling: Sampling,
        *,
        key: str | None = None,
        overlong: Literal["skip", "refuse"] = Sampler.overlong_prompts,
        warn: Callable[[str], None] = warnings.warn,
        stop: Sequence[str] = (),
        cancellation: Cancellation | None = None,
    ) -> None:
        if endpoint.concurrency < 1 or endpoint.retries < 0 or endpoint.timeout_s <= 0:
            raise UserError("an endpoint needs concurrency of at least 1, retries of at least 0 and timeout_s above 0")
        self._key = ApiKey((os.environ.get(endpoint.key_env, "") if key is None else key).strip())
        self._base_url, self._query = parse_url(endpoint.url, self._key)
        self.endpoint = endpoint
        self.model = model
        self.sampling = sampling
        self.overlong = overlong
        self.stop = stop
        self.cancellation = cancellation
        self.n_overlong = 0
        self._failures = Failures(warn)
        self._answered: list[dict[str, str]] = PROBE
        self._sender = Sender(endpoint, self._key, self._failures.warn_once)
        # The openai client needs some key; without one, its header is removed.
        self._headers: dict[str, Any] = {} if self._key.value else {"Authorization": openai.omit}
        if self._key.is_secret and self._base_url.scheme == "http" and not is_loopback(self._base_url.host):
            warn(f"the API key is sent to {self._base_url.host} without encryption; use https if the server has it")

    @property
    def url(self) -> str:
        """The base URL without secrets."""
        return self._key.scrub(str(self._base_url))

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield (i, group of prompt i) as groups are completed; the group of a skipped over-long prompt is empty.

        Raise UserError if the server refuses every request or keeps failing. Closing the iterator cancels pending
        requests."""
        return iterate_in_thread(partial(self._sample_all, prompts, n, sampling or self.sampling), self.cancellation)

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None:
        """Return the sample of `sample([prompt], 1, sampling)`, or None if the prompt was skipped as over-long.

        `on_text` is called with each piece of text as it arrives. Raise UserError as `groups` does, if the prompt is
        refused, and for any failure after the first piece, because a retry would repeat text. A reply with its finish
        reason counts as complete."""
        found: Sample | None = None
        work = partial(self._stream_one, prompt, sampling or self.sampling)
        with closing(iterate_in_thread(work, self.cancellation)) as items:
            for item in items:
                if isinstance(item, str):
                    on_text(item)
                else:
                    found = item
        return found

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        """Return the log-prob in nats of each id of each sample under the endpoint's model, at temperature 1.

        The ids are sent to /v1/completions, which returns the prompt's log-probs in vLLM's way or by "echo". Other
        `prompts` are tokenized by vLLM's /tokenize. Raise UserError for samples without ids or with another temperature,
        for a server without such log-probs, and if its model visibly has another tokenizer."""
        refuse_unscorable(samples)
        return run_in_thread(self._score_all(samples, prompts))

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """Return a given reply as a sample with unknown usage, as if drawn at temperature 1 from the full distribution."""
        return self._as_sample(prompt, 0, ServerReply(reply), Sampling(max_tokens=self.sampling.max_tokens))

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        raise UserError(NO_IDS)

    def cut(self, sample: Sample, n_chars: int) -> Sample:
        raise UserError(NO_IDS)

    def reprompt(self, sample: Sample, prompt: Prompt) -> Sample:
        raise UserError(NO_IDS)

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """Raise UserError: an endpoint has no token ids to continue from."""
        raise UserError(NO_IDS)

    async def _sample_all(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, emit: Callable[[tuple[int, Group]], None]
    ) -> None:
        drawn: defaultdict[int, dict[int, Sample]] = defaultdict(dict)
        skipped: set[int] = set()

        async def draw(i: int, index: int) -> None:
            if i in skipped:
                return
            sample = await self._sample_one(client, prompts[i], index, sampling)
            if sample is not None:
                drawn[i][index] = sample
                if len(drawn[i]) == n:
                    members = drawn.pop(i)
                    emit((i, tuple(members[index] for index in range(n))))
            elif i not in skipped:
                skipped.add(i)
                self.n_overlong += 1
                emit((i, ()))

        works = (draw(i, index) for i in range(len(prompts)) for index in range(n))
        async with self._client(sampling.max_tokens) as client:
            await gather(works, min(self.endpoint.concurrency, n * len(prompts)))
            if self._failures.nothing_graded:
                sent = sampling_parameters(prompts[0], 0, sampling, False, self._sender.unsupported)
                is_up = self._failures.n_replies > 0 or await self._answers(client, sent)
                if self._failures.are_many or not is_up:
                    raise UserError(
                        f"no prompt got a reply that can be graded; the last failure: {self._failures.last}"
                    )

    async def _stream_one(self, prompt: Prompt, sampling: Sampling, emit: Callable[[str | Sample], None]) -> None:
        async with self._client(sampling.max_tokens) as client:
            sample = await self._sample_one(client, prompt, 0, sampling, emit)
        if sample is None:
            self.n_overlong += 1
        else:
            emit(sample)

    async def _sample_one(
        self,
        client: openai.AsyncOpenAI,
        prompt: Prompt,
        index: int,
        sampling: Sampling,
        emit: Callable[[str], None] | None = None,
    ) -> Sample | None:
        """Return the sample, or None for a skipped over-long prompt. With `emit`, stream the text to it."""
        n_replies = self._failures.n_replies
        messages = list(map(wire_message, prompt.messages))
        make_parameters = partial(sampling_parameters, prompt, index, sampling, emit is not None, stop=self.stop)
        sent, answer = await self._sender.request(make_parameters, partial(self._complete, client, messages, emit))
        if isinstance(answer, Fault) and answer.is_reply_cut:
            answer = ServerReply("", "length", note="reasoning")
        if isinstance(answer, ServerReply):
            for kind, message in oddities(self.model, sampling, prompt, answer):
                self._failures.warn_once(kind, self._key.scrub(message))
            self._failures.check_reply(prompt, answer, self.url)
            self._answered = messages
        elif answer.is_overlong and self.overlong == "skip":
            self._failures.skip(prompt, answer.message)
            return None
        elif emit is not None:
            raise await self._error(client, prompt, sent, answer)
        else:
            answer = await self._failed_reply(client, prompt, sent, answer, n_replies)
        return self._as_sample(prompt, index, answer, sampling if "top_k" in sent else replace(sampling, top_k=0))

    async def _complete(
        self,
        client: openai.AsyncOpenAI,
        messages: list[Any],
        emit: Callable[[str], None] | None,
        sent: dict[str, Any],
        until: float,
    ) -> ServerReply | Fault:
        """Send one request for a reply; with `emit`, stream it. `until` is the event loop's time at which to give up.

        Raise UserError for a stream that fails after the first piece."""
        stream: Any = openai.omit if emit is None else True
        async with asyncio.timeout_at(until):
            answer: Any = await client.chat.completions.create(
                model=self.model, messages=messages, stream=stream, extra_headers=self._headers, extra_body=sent
            )
        if emit is None:
            return read_completion(answer)
        found, has_begun = await read_stream(answer, emit, until, self.endpoint.timeout_s)
        if isinstance(found, Fault) and has_begun:
            fault = self._sender.redact(found)
            raise UserError(
                f"{self.url} failed in the middle of a reply; a retry would repeat text: {fault.kind}: {fault.message}"
            )
        return found

    async def _score_all(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None) -> list[tuple[float, ...]]:
        found: list[tuple[float, ...]] = [()] * len(samples)

        async def score(i: int) -> None:
            prompt = None if prompts is None else prompts[i]

            async def send(sent: dict[str, Any], until: float) -> tuple[float, ...] | Fault:
                async with asyncio.timeout_at(until):
                    return await completion_log_probs(client, self.model, self._headers, samples[i], prompt, sent)

            sent, answer = await self._sender.request(score_parameters, send)
            if isinstance(answer, Fault):
                raise await self._error(client, samples[i].prompt, sent, answer)
            found[i] = answer

        longest = max((len(s.prompt_ids) + len(s.ids) for s in samples), default=0)
        async with self._client(longest + self.sampling.max_tokens) as client:
            await gather((score(i) for i in range(len(samples))), min(self.endpoint.concurrency, len(samples)))
        return found

    async def _failed_reply(
        self, client: openai.AsyncOpenAI, prompt: Prompt, sent: dict[str, Any], fault: Fault, n_replies: int
    ) -> ServerReply:
        """Return an ungraded reply for a prompt that the server refuses or fails on; before it came `n_replies` others.

        Raise UserError if the fault concerns every request, or after several such prompts in a row."""
        error = await self._error(client, prompt, sent, fault)
        if fault.is_transient and fault.status not in (200, 429):
            concerns_all = self._failures.n_replies == n_replies and not await self._answers(client, sent)
        elif fault.is_overlong or fault.is_overlong_with_reply:
            concerns_all = self.overlong == "refuse"
        else:
            blames_settings = named_parameter(fault, FROM_SETTINGS) or cannot_continue(sent, fault)
            concerns_all = fault.status != 200 and bool(blames_settings or not fault.blames_request)
        if concerns_all:
            raise error
        what = (
            "the endpoint refuses this prompt" if fault.blames_request else "the endpoint gives no reply to this prompt"
        )
        reason = f"{what}: {fault.kind}: {fault.message}"
        self._failures.add(prompt, reason, str(error))
        return ServerReply("", ungraded_reason=reason)

    async def _answers(self, client: openai.AsyncOpenAI, sent: dict[str, Any]) -> bool:
        """Return whether the server answers the last prompt that it answered, or a simple one, with these parameters."""
        plain = {k: v for k, v in sent.items() if k not in CONTINUE_TURN}
        send = partial(self._complete, client, self._answered, None)
        answer = await self._sender.attempt(send, plain, min(self.endpoint.timeout_s, PROBE_S))
        if isinstance(answer, Fault):
            return False
        self._failures.n_replies += 1
        return True

    async def _error(self, client: openai.AsyncOpenAI, prompt: Prompt, sent: dict[str, Any], fault: Fault) -> UserError:
        """Return an error that says what the server said, and what to do."""
        if fault.is_overlong:
            return UserError(
                f"the {prompt.phase} prompt of problem {prompt.problem.id} is too long for {self.model} at {self.url}: "
                f"{fault.message}; set sampler.overlong_prompts to skip such prompts"
            )
        source = self.endpoint.key_env or "the environment variable that endpoint.key_env names"
        key_hint = f"check {source}" if self._key.value else f"no key was given: set {source}"
        hint = await served_models(client, self._headers, self.model) if fault.blames_model else ""
        return UserError(explain(fault, sent, self.url, key_hint) + self._key.scrub(hint))

    def _client(self, n_tokens: int) -> openai.AsyncOpenAI:
        return open_client(self.endpoint, self._base_url, self._query, self._key, n_tokens)

    def _as_sample(self, prompt: Prompt, index: int, reply: ServerReply, sampling: Sampling) -> Sample:
        return Sample(
            prompt=prompt,
            index=index,
            prompt_ids=(),
            ids=(),
            mask=(),
            log_probs=(),
            text=scrub(reply.text, [self._key.value]) if self._key.is_secret else reply.text,
            stop="failed" if reply.ungraded_reason else reply.stop,
            sampling=sampling,
            version=self.version,
            verdict=Verdict(None, reply.ungraded_reason) if reply.ungraded_reason else None,
            usage=reply.usage,
        )
