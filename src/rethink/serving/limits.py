"""What the server takes at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits on one request, and on all together.

    - `max_tokens`: the tokens of one pass; a strategy has several. `prompt_tokens`: those of its prompt; 0 if that is not
      known here.
    - `max_n`: the choices of a request.
    - `max_samples`: the replies that all passes of all choices of a request draw together.
    - `concurrency`: the choices that are worked on at once; `queue`: those that wait, before requests get HTTP 429.
    - `max_images`: the images of a request.
    - `body_bytes`, `body_s`: the size of a request's body, and the seconds in which it must arrive; for a vision-language
      model, the size is `image_body_bytes`: room for photos in base64.
    - `grace_s`: the seconds that running requests get after SIGTERM.
    """

    max_tokens: int = 1024
    prompt_tokens: int = 0
    max_n: int = 16
    max_samples: int = 256
    max_images: int = 32
    concurrency: int = 64
    queue: int = 256
    body_bytes: int = 1 << 20
    image_body_bytes: int = 20 << 20
    body_s: float = 30.0
    grace_s: float = 30.0
