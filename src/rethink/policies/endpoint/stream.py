"""Read a streamed reply, event by event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from rethink.policies.endpoint.faults import TIME_OUT, Fault, read_error
from rethink.policies.endpoint.replies import (
    ServerReply,
    content_text,
    finished_reply,
    has_reasoning,
    read_completion,
    with_model,
)


async def read_stream(
    events: openai.AsyncStream[ChatCompletionChunk], emit: Callable[[str], None], until: float, timeout_s: float
) -> tuple[ServerReply | Fault, bool]:
    """Pass the pieces to `emit`; return the whole reply or a fault, and whether there was a piece.

    Also read the answer of a server that does not stream. A reply with its finish reason is complete: only its usage can
    be missing. `until` is the event loop's time at which `timeout_s` are over."""
    texts: list[str] = []
    finish_reason: Any = None
    usage: Any = None
    model: Any = None
    reasoned = False
    try:
        async with asyncio.timeout_at(until), events:
            if "json" in events.response.headers.get("content-type", ""):
                await events.response.aread()
                answer = read_completion(ChatCompletion.construct(**events.response.json()))
                if isinstance(answer, ServerReply) and answer.text:
                    emit(answer.text)
                return answer, isinstance(answer, ServerReply)
            async for chunk in events:
                for choice in chunk.choices or ():
                    if choice.index in (None, 0):
                        piece = content_text(choice.delta.content if choice.delta else None)
                        reasoned = reasoned or has_reasoning(choice.delta)
                        finish_reason = choice.finish_reason or finish_reason
                        if piece:
                            texts.append(piece)
                            emit(piece)
                usage = chunk.usage or usage
                model = chunk.model or model
        fault = Fault("an unfinished stream", "it ends without a finish reason", 200)
    except TimeoutError:
        fault = Fault(TIME_OUT, f"no whole answer within {timeout_s:g} s (endpoint.timeout_s)")
    except openai.APIError as err:
        fault = read_error(err)
    except httpx2.RequestError as err:
        fault = Fault(type(err).__name__, str(err))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as err:
        fault = Fault("a malformed event", f"{type(err).__name__}: {err}", 200)
    if finish_reason:
        return with_model(finished_reply("".join(texts), finish_reason, usage, reasoned), model), bool(texts)
    return fault, bool(texts)
