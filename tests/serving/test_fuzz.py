"""Bodies that no client sends on purpose: none of them is a fault of the server."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from typing import Any

from rethink.serving.limits import Limits
from support.serving import FakeServer

VALID: dict[str, Any] = {
    "model": "m+refine",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
    "n": 2,
    "seed": 3,
    "stop": ["x", "y"],
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [],
    "response_format": {"type": "text"},
    "logit_bias": {},
    "user": "u",
}

ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**63,
    10**400,
    -(10**30),
    0.5,
    1e308,
    "",
    "m",
    "m+",
    "m+solve:" + "9" * 190,
    "m+refine+refine+vote+pick+rsa:2,2,2",
    "m+rsa:3,2,100",
    "+refine",
    "x" * 5000,
    "\x00\u202e\ud800",
    "{question} {candidates}",
    "<think>",
    [],
    {},
    [[]],
    [None],
    [{}],
    [{"type": "text"}],
    {"a": {"b": []}},
    {"role": "user", "content": "d"},
    [{"role": ["user"], "content": "d"}],
    [{"role": "user", "content": {"type": "text"}}],
    [{"type": "text", "text": "t"}, {"type": "text", "text": 5}],
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all parts of a JSON value."""
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        found += places(part, (*path, key))
    return found


def mutated(rng: random.Random) -> Any:
    """Return the valid body with one to three parts replaced, removed, renamed or repeated."""
    body = copy.deepcopy(VALID)
    for _ in range(rng.randint(1, 3)):
        *path, last = rng.choice(places(body))
        inside: Any = body
        for key in path:
            inside = inside[key]
        kind = rng.randrange(4)
        if kind == 0 and isinstance(inside, dict):
            del inside[last]
        elif kind == 1 and isinstance(inside, dict):
            inside[rng.choice(["function_call", "audio", "__class__", "Model", "messages "])] = inside[last]
        elif kind == 2 and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[last]))
        else:
            inside[last] = copy.deepcopy(rng.choice(ODD))
    return body


def damaged(rng: random.Random) -> bytes:
    """Return a body as bytes: a mutated one, or one that is cut, or no JSON at all."""
    whole = json.dumps(mutated(rng)).encode()
    kind = rng.randrange(6)
    if kind == 0:
        return whole[: rng.randrange(len(whole))]
    if kind == 1:
        place = rng.randrange(len(whole))
        return whole[:place] + rng.randbytes(rng.randint(1, 4)) + whole[place + 1 :]
    return whole


RAW = [
    b"",
    b"null",
    b"[]",
    b'"a"',
    b"NaN",
    b'{"temperature": NaN, "messages": [{"role": "user", "content": "a"}]}',
    b'{"temperature": 1e999, "messages": [{"role": "user", "content": "a"}]}',
    b'{"seed": ' + b"9" * 5000 + b', "messages": [{"role": "user", "content": "a"}]}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff\xfe{\x00}\x00",
    b'\xef\xbb\xbf{"messages": [{"role": "user", "content": "a"}]}',
    '{"messages": [{"role": "user", "content": "a"}]}'.encode("utf-16"),
    b'{"messages": [{"role": "user", "content": "a"}], "messages": 5}',
]


def test_malformed_bodies_never_give_a_500() -> None:
    """Guards against a crash by what clients send: 600 damaged bodies and the odd ones above get a reply or an error of
    theirs, in OpenAI's format, and the server answers the next request."""

    async def work() -> None:
        server = FakeServer(limits=Limits(max_samples=64))
        rng = random.Random(5)
        statuses: dict[int, int] = {}
        for body in [*RAW, *(damaged(rng) for _ in range(600))]:
            headers = {"Content-Type": "application/json"}
            answer = await server.client.post("/v1/chat/completions", content=body, headers=headers)
            assert answer.status_code in (200, 400, 404), (body[:300], answer.text)
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        assert statuses[200] > 20
        assert statuses[400] > 300
        assert server.notes == []
        assert (await server.ask()).status_code == 200

    asyncio.run(work())
