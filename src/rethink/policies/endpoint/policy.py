"""The policy over an endpoint: one request per sample, many at a time, by the client package `openai`."""

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
    CHOSEN,
    OPTIONAL,
    UNKNOWN,
    ApiKey,
    Fault,
    ServerReply,
    content_text,
    encodable,
    is_loopback,
    named_parameter,
    parameters,
    read_completion,
    read_error,
    refuses_to_continue,
    split_url,
    whole_reply,
)
from rethink.policies.endpoint.scoring import log_probs, score_parameters
from rethink.policies.event_loop import gather, iterate_in_thread, run_in_thread
from rethink.policies.prompt_log_probs import refuse_unscorable
from rethink.settings import Endpoint, Sampler
from rethink.types import Group, Prompt, Sample, Sampling, Verdict

CONNECT_S = 30.0
DELAY_S = 0.5
LONGEST_DELAY_S = 8.0
"""Before an answer that is no reply is asked for again: as long as the client package waits after an error."""

SEVERAL = 5
"""So many prompts that the server refuses one after the other are no accident."""

T = TypeVar("T")


class EndpointPolicy(Policy):
    """Samples from an OpenAI-compatible chat-completions endpoint. It cannot be trained: its version is -1 for ever, and
    its samples have text and usage but no ids. Of a reply only the content counts, not the reasoning beside it. A prompt
    that ends with a turn of the assistant is continued, as vLLM and SGLang understand it; the sample's text is the
    continuation alone. Other servers refuse this (UserError), or ignore it and begin a new turn unnoticed.

    The client package tries a failure that may pass (a refused, cut or silent connection, HTTP 408, 409, 429 and 5xx) up
    to `endpoint.retries` times more, after half a second that doubles up to 8 s, or after what Retry-After says, up to
    two minutes; a server that asks for more raises UserError. So does all else that concerns every request. A request
    that the server refuses by itself, and a reply that it ends on its own (a content filter), give a sample that is not
    graded, with the server's reason; several such prompts in a row raise UserError. With temperatures above 0 samples
    repeat as far as the server heeds the seed, which derives from the prompt's seed and the sample's index.

    A prompt that the server finds too long for the model's context is skipped and counted in `n_overlong`, or refused.
    `key` (by default what the environment has as `endpoint.key_env`) goes into requests only. `warn` is told once of each
    parameter that the server does not know, which is then left out, and of the first prompt that is over-long or refused.
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
            raise UserError("an endpoint needs concurrency of at least 1, retries of at least 0, timeout_s above 0")
        self._key = ApiKey((os.environ.get(endpoint.key_env, "") if key is None else key).strip())
        self._base_url, self._query = split_url(endpoint.url, self._key)
        self.endpoint = endpoint
        self.model = model
        self.sampling = sampling
        self.overlong = overlong
        self.warn = warn
        self.n_overlong = 0
        self._refused: frozenset[str] = frozenset()
        self._failing: set[str] = set()
        self._warned: set[str] = set()
        # Without a key the package's header for it is taken out.
        self._headers: dict[str, Any] = {} if self._key.value else {"Authorization": openai.omit}

    @property
    def url(self) -> str:
        """Where requests go, without what may be secret in it."""
        return self._key.scrub(str(self._base_url.copy_with(userinfo=b"")))

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield (i, group) as groups are finished; the group is empty for a prompt that was skipped as over-long.

        Raises UserError where the server refuses every request, or keeps failing; closing it drops what is under way."""
        return iterate_in_thread(partial(self._sample_all, prompts, n, sampling or self.sampling))

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None:
        """Return the sample that `sample([prompt], 1, sampling)` gives; None for a prompt that was skipped as over-long.

        `on_text` is called with each piece of the text as it arrives. Raises UserError as `groups` does, where this one
        prompt is refused, and for any failure after the first piece, since a second attempt would say things twice; a
        reply that has its finish reason counts as whole."""
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

        Ids go to /v1/completions and come back with the prompt's log-probs, as vLLM gives them, or by "echo". Prompts are
        rendered by vLLM's /tokenize. Raises UserError for samples without ids or of another temperature, for a server
        that gives no such log-probs, and for a model of another tokenizer where that shows."""
        refuse_unscorable(samples)
        return run_in_thread(self._score_all(samples, prompts))

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """Return a given reply as a sample of unknown usage, at temperature 1 from the full distribution."""
        return self._as_sample(prompt, 0, ServerReply(reply), Sampling(max_tokens=self.sampling.max_tokens))

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """Raise UserError: an endpoint has no token ids to go on from."""
        raise UserError("samples of an endpoint cannot be continued")

    async def _sample_all(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, tell: Callable[[tuple[int, Group]], None]
    ) -> None:
        drawn: defaultdict[int, dict[int, Sample]] = defaultdict(dict)
        skipped: set[int] = set()

        async def draw(i: int, index: int) -> None:
            if i in skipped:
                return
            sample = await self._draw(client, prompts[i], index, sampling)
            if sample is not None:
                drawn[i][index] = sample
                if len(drawn[i]) == n:
                    members = drawn.pop(i)
                    tell((i, tuple(members[index] for index in range(n))))
            elif i not in skipped:
                skipped.add(i)
                self.n_overlong += 1
                tell((i, ()))

        works = (draw(i, index) for i in range(len(prompts)) for index in range(n))
        async with self._client() as client:
            await gather(works, min(self.endpoint.concurrency, n * len(prompts)))

    async def _stream_one(self, prompt: Prompt, sampling: Sampling, tell: Callable[[str | Sample], None]) -> None:
        async with self._client() as client:
            sample = await self._draw(client, prompt, 0, sampling, tell)
        if sample is None:
            self.n_overlong += 1
        else:
            tell(sample)

    async def _draw(
        self,
        client: openai.AsyncOpenAI,
        prompt: Prompt,
        index: int,
        sampling: Sampling,
        tell: Callable[[str], None] | None = None,
    ) -> Sample | None:
        """Return the sample, streamed where `tell` is to hear it; None for a prompt that is skipped as over-long."""
        messages: list[Any] = [{"role": m.role, "content": encodable(m.content)} for m in prompt.messages]
        stream: Any = openai.omit if tell is None else True

        async def send(sent: dict[str, Any]) -> ServerReply | Fault:
            answer: Any = await client.chat.completions.create(
                model=self.model, messages=messages, stream=stream, extra_headers=self._headers, extra_body=sent
            )
            return read_completion(answer) if tell is None else await self._read(answer, tell)

        sent, answer = await self._ask(partial(parameters, prompt, index, sampling, tell is not None), send)
        if isinstance(answer, Fault):
            if answer.overlong:
                self._skip(prompt, answer)
                return None
            if tell is not None:
                raise UserError(self._explain(sent, answer))
            answer = self._unfit(prompt, sent, answer)
        elif not answer.unfit:
            self._failing.clear()
        return self._as_sample(prompt, index, answer, sampling if "top_k" in sent else replace(sampling, top_k=0))

    async def _read(
        self, events: openai.AsyncStream[ChatCompletionChunk], tell: Callable[[str], None]
    ) -> ServerReply | Fault:
        """Return the whole reply, of which `tell` gets the pieces, also from a server that does not stream. Raises
        UserError for a failure after the first piece."""
        texts: list[str] = []
        finish_reason: str | None = None
        usage: Any = None
        try:
            async with asyncio.timeout(self.endpoint.timeout_s), events:
                if "json" in events.response.headers.get("content-type", ""):
                    await events.response.aread()
                    answer = read_completion(ChatCompletion.construct(**events.response.json()))
                    if isinstance(answer, ServerReply) and answer.text:
                        tell(answer.text)
                    return answer
                async for chunk in events:
                    for choice in chunk.choices or ():
                        if choice.index in (None, 0):
                            piece = content_text(choice.delta.content if choice.delta else None)
                            finish_reason = choice.finish_reason or finish_reason
                            if piece:
                                texts.append(piece)
                                tell(piece)
                    usage = chunk.usage or usage
            answer = Fault("an unfinished stream", "it ends without a finish reason", 200)
        except TimeoutError:
            answer = Fault("time-out", f"no whole answer within {self.endpoint.timeout_s:g} s")
        except openai.APIError as err:
            answer = read_error(err)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as err:
            answer = Fault("a malformed event", f"{type(err).__name__}: {err}")
        if finish_reason:  # only its usage can be missing
            answer = whole_reply("".join(texts), finish_reason, usage)
        if isinstance(answer, ServerReply):
            return answer
        if not texts:  # the client package tries nothing again once an answer has begun
            return replace(answer, status=200) if answer.passing else answer
        fault = self._shown(answer)
        raise UserError(
            f"{self.url} failed in the middle of a reply, which cannot be asked for again without saying things twice: "
            f"{fault.kind}: {fault.message}"
        )

    async def _score_all(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None) -> list[tuple[float, ...]]:
        found: list[tuple[float, ...]] = [()] * len(samples)

        async def score(i: int) -> None:
            prompt = None if prompts is None else prompts[i]
            send = partial(log_probs, client, self.model, self._headers, samples[i], prompt)
            sent, answer = await self._ask(score_parameters, send)
            if isinstance(answer, Fault):
                raise UserError(self._explain(sent, answer))
            found[i] = answer

        async with self._client() as client:
            await gather((score(i) for i in range(len(samples))), min(self.endpoint.concurrency, len(samples)))
        return found

    async def _ask(
        self,
        wanted: Callable[[Set[str]], dict[str, Any]],
        send: Callable[[dict[str, Any]], Awaitable[T | Fault]],
    ) -> tuple[dict[str, Any], T | Fault]:
        """Return the parameters that were sent in the end, and the answer.

        Asks again without a parameter that the server does not know (`wanted` is given their names), and after an answer
        with status 200 that is none, which the client package takes. The package's exceptions hold the request, and this
        the key: they go no further."""
        n_void = 0
        while True:
            sent = wanted(self._refused)
            try:
                answer = await send(sent)
            except UserError:  # a ValueError, too
                raise
            except openai.APIError as err:
                answer = read_error(err)
            except (ValueError, RecursionError) as err:
                answer = Fault("an answer that is not JSON", f"{type(err).__name__}: {err}", 200)
            if not isinstance(answer, Fault):
                return sent, answer
            answer = self._shown(answer)
            unknown = answer.of_request and UNKNOWN.search(answer.message)
            name = named_parameter(answer, OPTIONAL.keys() & sent.keys()) if unknown else None
            if name is not None:
                self._refused |= {name}
                self._warn_once(name, OPTIONAL[name])
            elif answer.status == 200 and n_void < self.endpoint.retries:
                await asyncio.sleep(min(DELAY_S * 2**n_void, LONGEST_DELAY_S))
                n_void += 1
            else:
                return sent, replace(answer, n_attempts=n_void + answer.n_attempts)

    def _shown(self, fault: Fault) -> Fault:
        """Return it without the key, on one line, not too long. The key goes first, or half of it could be left."""
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
                f"{fault.message}; lower sampling.max_tokens if that is what binds, or set sampler.overlong_prompts to skip"
            )
        self._warn_once(
            "over-long", f"the endpoint finds a prompt too long; such prompts are skipped and counted: {fault.message}"
        )

    def _unfit(self, prompt: Prompt, sent: Mapping[str, Any], fault: Fault) -> ServerReply:
        """Return what stands for a reply where the server refuses one request by itself. Raises UserError for all else, and
        where it does so again and again."""
        of_settings = named_parameter(fault, CHOSEN) or refuses_to_continue(sent, fault)
        if fault.status != 200 and (of_settings or not fault.of_request):
            raise UserError(self._explain(sent, fault))
        self._failing.add(prompt.group)
        if len(self._failing) >= SEVERAL:
            raise UserError(f"{self._explain(sent, fault)} (the same for {SEVERAL} prompts in a row)")
        reason = f"the endpoint refuses this prompt: {fault.kind}: {fault.message}"
        self._warn_once("unfit", f"problem {prompt.problem.id} is not graded, nor others like it: {reason}")
        return ServerReply("", unfit=reason)

    def _explain(self, sent: Mapping[str, Any], fault: Fault) -> str:
        if fault.passing:
            attempts = "1 attempt" if fault.n_attempts == 1 else f"{fault.n_attempts} attempts"
            return f"gave up on {self.url} after {attempts}: {fault.kind}: {fault.message}"
        hint = ""
        name = named_parameter(fault, CHOSEN) if fault.of_request else None
        if refuses_to_continue(sent, fault):
            hint = "; it cannot continue a turn of the assistant: a server such as vLLM or a local model can"
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
            # Proxies of the environment are for other machines.
            http = openai.DefaultAsyncHttpxClient(timeout=timeout, trust_env=not is_loopback(self._base_url.host))
        except (ValueError, ImportError, httpx2.InvalidURL):
            http = None
        if http is None:  # out here, since the error above may hold a proxy's password
            raise UserError("no proxy can be made of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY; correct or unset them")
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
            verdict=Verdict(None, reply.unfit) if reply.unfit else None,
            usage=reply.usage,
        )
