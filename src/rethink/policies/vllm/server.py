"""One vLLM server, as its routes for reinforcement learning show it (VLLM_SERVER_DEV_MODE=1). Written against vLLM 0.32."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx2

from rethink.policies.endpoint.protocol import Fault, complaint
from rethink.policies.vllm.protocol import GENERATE, Info, read_info

CONNECT_S = 30.0
RESET_ATTEMPTS = 20


class Lost(Exception):
    """A server that cannot be sampled from; the message says why."""


class Server:
    """Where to reach it, and what state it is in. `lost` says why it is not used any more; "" while it is. One with a Unix
    socket is colocated: it runs for this process alone, on the same device."""

    def __init__(self, url: str, *, socket: str | None = None, key: str = "", timeout_s: float) -> None:
        self.url = url
        self.socket = socket
        self.colocated = socket is not None
        self.timeout_s = timeout_s
        self.lost = ""
        self.on_close: Callable[[], object] = lambda: None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._sleeping = False
        self._info: Info | None = None
        self._control = httpx2.Client(
            base_url=url,
            headers=self._headers,
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
            # A connection for each call: one that the server closes as it is used again cannot be told from a dead server.
            transport=httpx2.HTTPTransport(uds=socket, limits=httpx2.Limits(max_keepalive_connections=0)),
        )

    def client(self, concurrency: int) -> httpx2.AsyncClient:
        """For `ask`, in one event loop."""
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        return httpx2.AsyncClient(
            base_url=self.url,
            headers={**self._headers, "Content-Type": "application/json"},
            timeout=httpx2.Timeout(None, connect=min(self.timeout_s, CONNECT_S)),
            transport=httpx2.AsyncHTTPTransport(uds=self.socket, limits=limits),
        )

    async def ask(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[int, bytes] | Fault:
        """Status and content of the answer to a request for a sample."""
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await client.post(GENERATE, content=json.dumps(body).encode())
        except TimeoutError:
            return Fault("time-out", f"no answer within {self.timeout_s:g} s (sampler.timeout_s)")
        except httpx2.RequestError as err:
            return Fault(type(err).__name__, str(err))
        return answer.status_code, answer.content

    def call(self, path: str, body: dict[str, Any] | None = None, *, method: str = "POST", **params: Any) -> Any:
        """The JSON of an answer. Raises Lost where there is none, or where it is a failure."""
        try:
            answer = self._control.request(method, path, json=body, params=params)
        except httpx2.RequestError as err:
            raise Lost(f"{type(err).__name__}: {err}") from err
        try:
            payload = answer.json()
        except ValueError:
            payload = None
        if not answer.is_success:
            raise Lost(f"HTTP {answer.status_code} from {path}: {complaint(payload)[0] or answer.text[:500]}")
        return payload

    @property
    def info(self) -> Info:
        """What it says of itself, asked once. Raises Lost."""
        if self._info is None:
            world_size = self.call("/get_world_size", method="GET")
            payload = self.call("/server_info", method="GET", config_format="json")
            try:
                self._info = read_info(payload, world_size)
            except (LookupError, TypeError, ValueError) as err:
                raise Lost(f"its /server_info is not that of vLLM 0.32: {type(err).__name__} {err}") from err
        return self._info

    def begin_update(self) -> None:
        """No samples from here on, and none under way."""
        self.wake()
        self.call("/pause", mode="abort")

    def end_update(self, label: str) -> None:
        """Samples again, from weights of this label and from nothing that was kept of older ones. Raises Lost where the
        weights have another label, or the cache cannot be cleared."""
        for _ in range(RESET_ATTEMPTS):
            if self.call("/reset_prefix_cache")["success"]:
                break
            time.sleep(0.1)  # blocks of requests that were cut are still being freed
        else:
            raise Lost("its prefix cache cannot be reset")
        found = self.call("/weight_info", method="GET")["weight_version"]
        if found != label:
            raise Lost(f"it has the weights {found!r} instead of {label!r}")
        self.call("/resume")

    def start_weight_update(self) -> None:
        """One that was begun by a trainer which is gone is ended first; a first attempt to do so may complain of weights
        that never came."""
        for _ in range(2):
            try:
                self.call("/start_weight_update")
                return
            except Lost:
                with suppress(Lost):
                    self.call("/finish_weight_update")
        self.call("/start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Handles of GPU memory travel pickled, as vLLM's own client sends them."""
        if "ipc_handles" in update_info:
            handles = base64.b64encode(pickle.dumps(update_info["ipc_handles"])).decode()
            update_info = {k: v for k, v in update_info.items() if k != "ipc_handles"}
            update_info["ipc_handles_pickled"] = handles
        try:
            self.call("/update_weights", {"update_info": update_info})
        except Lost as err:
            raise Lost(f"it does not take the weights of this run; does it serve model.path? {err}") from err

    def sleep(self) -> None:
        """Give a GPU's memory to the trainer that shares it; the weights go to the host's memory meanwhile."""
        if self.colocated and self.info.sleeps and not self._sleeping:
            self.call("/sleep", level=1, mode="abort")
            self._sleeping = True

    def wake(self) -> None:
        """Take the memory back."""
        if self._sleeping:
            self.call("/wake_up")
            self._sleeping = False

    def look_again(self) -> bool:
        """Whether a lost server answers again; it is then as unknown as a new one."""
        try:
            self.call("/health", method="GET")
        except Lost:
            return False
        self.lost, self._sleeping, self._info = "", False, None
        return True

    def close(self) -> None:
        """Close connections; a colocated server ends, others go on."""
        self._control.close()
        self.on_close()
