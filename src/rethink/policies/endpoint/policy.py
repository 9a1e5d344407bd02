"""The policy over an endpoint: one request per sample, many at a time, through the `openai` package."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

import httpx2
import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from rethink.errors import UserError
from rethink.policies.base import Policy
from rethink.policies.endpoint.protocol import (
    FROM_SETTINGS,
    OPTIONAL,
    UNKNOWN_PARAMETER,
    ApiKey,
    Fault,
    ServerReply,
    cannot_continue,
    content_text,
    finished_reply,
    is_loopback,
    named_parameter,
    parse_url,
    read_completion,
    read_error,
    replace_surrogates,
    sampling_parameters,
)
from rethink.policies.endpoint.scoring import completion_log_probs, score_parameters
from rethink.policies.event_loop import gather, iterate_in_thread, run_in_thread
from rethink.policies.prompt_log_probs import refuse_unscorable
from rethink.settings import Endpoint, Sampler
from rethink.types import Group, Prompt, Sample, Sampling, Verdict

CONNECT_S = 30.0
DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
"""Delays before a request whose answer has no reply is repeated: as long as the openai client waits after an error."""

MAX_REFUSED_IN_A_ROW = 5
"""After this many refused prompts in a row, the cause is not the prompts: raise UserError."""

T = TypeVar("T")


class EndpointPolicy(Policy):
    """Sample from an OpenAI-compatible chat-completions endpoint.

    It cannot be trained: its version is always -1, and samples have text and usage but no token ids. The text is a reply's
    content, without separate reasoning. Samples repeat if the server honors the seed, which derives from the prompt's seed
    and the sample's index. A prompt that ends with an assistant turn is continued, by the parameters of vLLM and SGLang;
    other servers refuse them (UserError), or ignore them and silently start a new turn.

    Failures:
    - Transient ones (a refused, dropped or silent connection, HTTP 408, 409, 429, 5xx) are retried up to
      `endpoint.retries` times, after 0.5 s, doubled up to 8 s, or after Retry-After, up to 2 minutes. A longer Retry-After
      means that the quota is exhausted: UserError.
    - A prompt that the server refuses, and a reply that it cuts short (a content filter), give a sample that is not graded,
      with the server's reason. Several refused prompts in a row raise UserError.
    - A prompt that is too long for the model is skipped and counted in `n_overlong`, or raises UserError (`overlong`).
    - A parameter that the server does not support is left out from then on. All other failures raise UserError.

    `key` (default: the environment variable `endpoint.key_env`) is sent in requests and shown nowhere. `warn` is called
    once per parameter left out, and for the first over-long and the first refused prompt.
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
    ) -> None:
        if endpoint.concurrency < 1 or endpoint.retries < 0 or endpoint.timeout_s <= 0:
            raise UserError("an endpoint needs concurrency of at least 1, retries of at least 0 and timeout_s above 0")
        self._key = ApiKey((os.environ.get(endpoint.key_env, "") if key is None else key).strip())
        self._base_url, self._query = parse_url(endpoint.url, self._key)
        self.endpoint = endpoint
        self.model = model
        self.sampling = sampling
        self.overlong = overlong
        self.warn = warn
        self.n_overlong = 0
        self._unsupported: frozenset[str] = frozenset()
        self._refused_prompts: set[str] = set()
        self._warned: set[str] = set()
        # The openai client needs some key; without one, its header is removed.
        self._headers: dict[str, Any] = {} if self._key.value else {"Authorization": openai.omit}

    @property
    def url(self) -> str:
        """The base URL without secrets."""
        return self._key.scrub(str(self._base_url.copy_with(userinfo=b"")))

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield (i, group of prompt i) as groups are completed; the group of a skipped over-long prompt is empty.

        Raise UserError if the server refuses every request or keeps failing. Closing the iterator cancels pending
        requests."""
        return iterate_in_thread(partial(self._sample_all, prompts, n, sampling or self.sampling))

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None:
        """Return the sample of `sample([prompt], 1, sampling)`, or None if the prompt was skipped as over-long.

        `on_text` is called with each piece of text as it arrives. Raise UserError as `groups` does, if the prompt is
        refused, and for any failure after the first piece, because a retry would repeat text. A reply with its finish
        reason counts as complete."""
        found: Sample | None = None
        with closing(iterate_in_thread(partial(self._stream_one, prompt, sampling or self.sampling))) as items:
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

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """Raise UserError: an endpoint has no token ids to continue from."""
        raise UserError("samples of an endpoint cannot be continued")

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
        async with self._client() as client:
            await gather(works, min(self.endpoint.concurrency, n * len(prompts)))

    async def _stream_one(self, prompt: Prompt, sampling: Sampling, emit: Callable[[str | Sample], None]) -> None:
        async with self._client() as client:
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
        messages: list[Any] = [{"role": m.role, "content": replace_surrogates(m.content)} for m in prompt.messages]
        stream: Any = openai.omit if emit is None else True

        async def send(sent: dict[str, Any]) -> ServerReply | Fault:
            answer: Any = await client.chat.completions.create(
                model=self.model, messages=messages, stream=stream, extra_headers=self._headers, extra_body=sent
            )
            return read_completion(answer) if emit is None else await self._read_stream(answer, emit)

        sent, answer = await self._request(
            partial(sampling_parameters, prompt, index, sampling, emit is not None), send
        )
        if isinstance(answer, Fault):
            if answer.is_overlong:
                self._skip(prompt, answer)
                return None
            if emit is not None:
                raise UserError(self._error_message(sent, answer))
            answer = self._refused_reply(prompt, sent, answer)
        elif not answer.ungraded_reason:
            self._refused_prompts.clear()
        return self._as_sample(prompt, index, answer, sampling if "top_k" in sent else replace(sampling, top_k=0))

    async def _read_stream(
        self, events: openai.AsyncStream[ChatCompletionChunk], emit: Callable[[str], None]
    ) -> ServerReply | Fault:
        """Pass the pieces to `emit` and return the whole reply, also from a server that does not stream.

        Raise UserError for a failure after the first piece."""
        texts: list[str] = []
        finish_reason: str | None = None
        usage: Any = None
        try:
            async with asyncio.timeout(self.endpoint.timeout_s), events:
                if "json" in events.response.headers.get("content-type", ""):
                    await events.response.aread()
                    answer = read_completion(ChatCompletion.construct(**events.response.json()))
                    if isinstance(answer, ServerReply) and answer.text:
                        emit(answer.text)
                    return answer
                async for chunk in events:
                    for choice in chunk.choices or ():
                        if choice.index in (None, 0):
                            piece = content_text(choice.delta.content if choice.delta else None)
                            finish_reason = choice.finish_reason or finish_reason
                            if piece:
                                texts.append(piece)
                                emit(piece)
                    usage = chunk.usage or usage
            answer = Fault("an unfinished stream", "it ends without a finish reason", 200)
        except TimeoutError:
            answer = Fault("time-out", f"no whole answer within {self.endpoint.timeout_s:g} s")
        except openai.APIError as err:
            answer = read_error(err)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as err:
            answer = Fault("a malformed event", f"{type(err).__name__}: {err}")
        if finish_reason:  # only its usage can be missing
            answer = finished_reply("".join(texts), finish_reason, usage)
        if isinstance(answer, ServerReply):
            return answer
        if not texts:  # the openai client does not retry once an answer has started
            return replace(answer, status=200) if answer.is_transient else answer
        fault = self._redacted(answer)
        raise UserError(
            f"{self.url} failed in the middle of a reply; a retry would repeat text: {fault.kind}: {fault.message}"
        )

    async def _score_all(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None) -> list[tuple[float, ...]]:
        found: list[tuple[float, ...]] = [()] * len(samples)

        async def score(i: int) -> None:
            prompt = None if prompts is None else prompts[i]
            send = partial(completion_log_probs, client, self.model, self._headers, samples[i], prompt)
            sent, answer = await self._request(score_parameters, send)
            if isinstance(answer, Fault):
                raise UserError(self._error_message(sent, answer))
            found[i] = answer

        async with self._client() as client:
            await gather((score(i) for i in range(len(samples))), min(self.endpoint.concurrency, len(samples)))
        return found

    async def _request(
        self,
        make_parameters: Callable[[Set[str]], dict[str, Any]],
        send: Callable[[dict[str, Any]], Awaitable[T | Fault]],
    ) -> tuple[dict[str, Any], T | Fault]:
        """Send a request and return the parameters that were sent last, and the answer.

        Retry without each parameter that the server does not know (`make_parameters` gets their names), and after an
        answer with status 200 but no reply, which the openai client accepts. Its exceptions hold the request with the key,
        so they are not passed on."""
        n_empty = 0
        while True:
            sent = make_parameters(self._unsupported)
            try:
                answer = await send(sent)
            except UserError:  # a ValueError, caught below otherwise
                raise
            except openai.APIError as err:
                answer = read_error(err)
            except (ValueError, RecursionError) as err:
                answer = Fault("not JSON", f"{type(err).__name__}: {err}", 200)
            if not isinstance(answer, Fault):
                return sent, answer
            answer = self._redacted(answer)
            unknown = answer.blames_request and UNKNOWN_PARAMETER.search(answer.message)
            name = named_parameter(answer, OPTIONAL.keys() & sent.keys()) if unknown else None
            if name is not None:
                self._unsupported |= {name}
                self._warn_once(name, OPTIONAL[name])
            elif answer.status == 200 and n_empty < self.endpoint.retries:
                await asyncio.sleep(min(DELAY_S * 2**n_empty, LONGEST_DELAY_S))
                n_empty += 1
            else:
                return sent, replace(answer, n_attempts=n_empty + answer.n_attempts)

    def _redacted(self, fault: Fault) -> Fault:
        """Return the fault without the key, on one line of limited length.

        Redact before truncating, or half a key could leak."""
        line = " ".join(self._key.scrub(fault.message).split())
        return replace(fault, message=line if len(line) <= 500 else line[:500] + "...")

    def _warn_once(self, kind: str, message: str) -> None:
        if message and kind not in self._warned:
            self._warned.add(kind)
            self.warn(message)

    def _skip(self, prompt: Prompt, fault: Fault) -> None:
        """Warn of an over-long prompt, or raise UserError."""
        if self.overlong == "refuse":
            raise UserError(
                f"the {prompt.phase} prompt of problem {prompt.problem.id} is too long for {self.model} at {self.url}: "
                f"{fault.message}; lower sampling.max_tokens, or set sampler.overlong_prompts to skip"
            )
        self._warn_once(
            "over-long", f"a prompt is too long for the endpoint; such prompts are skipped and counted: {fault.message}"
        )

    def _refused_reply(self, prompt: Prompt, sent: Mapping[str, Any], fault: Fault) -> ServerReply:
        """Return an ungraded reply for a prompt that the server refuses.

        Raise UserError if the fault concerns every request, or after several refused prompts in a row."""
        blames_settings = named_parameter(fault, FROM_SETTINGS) or cannot_continue(sent, fault)
        if fault.status != 200 and (blames_settings or not fault.blames_request):
            raise UserError(self._error_message(sent, fault))
        self._refused_prompts.add(prompt.group)
        if len(self._refused_prompts) >= MAX_REFUSED_IN_A_ROW:
            raise UserError(
                f"{self._error_message(sent, fault)} (the same for {MAX_REFUSED_IN_A_ROW} prompts in a row)"
            )
        reason = f"the endpoint refuses this prompt: {fault.kind}: {fault.message}"
        self._warn_once(
            "ungraded",
            f"problem {prompt.problem.id} is not graded (reported once): {reason}",
        )
        return ServerReply("", ungraded_reason=reason)

    def _error_message(self, sent: Mapping[str, Any], fault: Fault) -> str:
        if fault.is_transient:
            attempts = "1 attempt" if fault.n_attempts == 1 else f"{fault.n_attempts} attempts"
            return f"gave up on {self.url} after {attempts}: {fault.kind}: {fault.message}"
        hint = ""
        name = named_parameter(fault, FROM_SETTINGS) if fault.blames_request else None
        if cannot_continue(sent, fault):
            hint = "; it cannot continue an assistant turn: use vLLM, SGLang or a local model"
        elif fault.status in (401, 403):
            source = self.endpoint.key_env or "the environment variable that endpoint.key_env names"
            hint = f"; check {source}" if self._key.value else f"; no key was given: set {source}"
        elif fault.status == 404:
            hint = f"; check the model's name, {self.model!r}, and the URL"
        elif hasattr(self.sampling, name or ""):
            hint = f"; see sampling.{name} (in evaluations evaluation.sampling.{name})"
        return f"{self.url} refuses a request: {fault.kind}: {fault.message}{hint}"

    def _client(self) -> openai.AsyncOpenAI:
        timeout = httpx2.Timeout(self.endpoint.timeout_s, connect=min(self.endpoint.timeout_s, CONNECT_S))
        try:
            # Proxies from the environment are for other machines.
            http = openai.DefaultAsyncHttpxClient(timeout=timeout, trust_env=not is_loopback(self._base_url.host))
        except (ValueError, ImportError, httpx2.InvalidURL):
            http = None
        if http is None:  # raised here, because the error above may hold a proxy's password
            raise UserError("the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is not valid; correct or unset it")
        return openai.AsyncOpenAI(
            api_key=self._key.value or "none",
            base_url=self._base_url,
            default_query=self._query,
            max_retries=self.endpoint.retries,
            timeout=timeout,
            http_client=http,
        )

    def _as_sample(self, prompt: Prompt, index: int, reply: ServerReply, sampling: Sampling) -> Sample:
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
            verdict=Verdict(None, reply.ungraded_reason) if reply.ungraded_reason else None,
            usage=reply.usage,
        )
