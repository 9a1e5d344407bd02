"""Replies that can be graded, but show that the server does not do what it was asked: each kind gives a warning."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rethink.policies.endpoint.replies import ServerReply
from rethink.types import Prompt, Sampling

TURN_MARKS = re.compile(
    r"<\|(im_start|im_end|start_header_id|eot_id|end_of_text|endoftext|end|user|assistant|system)\|>"
    r"|<(start|end)_of_turn>|\[/?INST\]|<｜(User|Assistant|end▁of▁sentence)｜>"
)
"""Texts of special tokens that begin or end a turn. A server that stops at the right token never returns them."""


def oddities(model: str, sampling: Sampling, prompt: Prompt, reply: ServerReply) -> Iterator[tuple[str, str]]:
    """Yield the kind of each oddity of a reply, with a warning."""
    if reply.model and not _is_same_model(model, reply.model):
        yield "model", f"the server answers as the model {reply.model!r}, but {model!r} was asked (reported once)"
    n_tokens = reply.usage[1]
    if n_tokens is not None and n_tokens > sampling.max_tokens:
        yield (
            "max_tokens",
            f"the server ignores max_tokens={sampling.max_tokens}: it counts {n_tokens} tokens in a reply (reported once)",
        )
    if not (reply.text.strip() or reply.note or reply.ungraded_reason) and reply.stop == "stop":
        yield (
            "empty",
            "a reply is empty (reported once): if many are, correct the server's chat template or its parser of reasoning",
        )
    mark = TURN_MARKS.search(reply.text)
    if mark and not any(mark[0] in m.content for m in prompt.messages):
        yield (
            "turn mark",
            f"a reply contains {mark[0]!r} (reported once): the server does not stop where the model ends its turn, and "
            "what follows is graded as part of the reply; correct the server's chat template or stop tokens",
        )


def _is_same_model(asked: str, answered: str) -> bool:
    """Return whether one name contains the other, without folders: a server may add a date, or leave out the owner."""
    a, b = (name.strip().rstrip("/").rpartition("/")[2].lower() for name in (asked, answered))
    return not a or not b or a in b or b in a
