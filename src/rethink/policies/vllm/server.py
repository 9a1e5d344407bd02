"""A client of one vLLM server and its routes for training (VLLM_SERVER_DEV_MODE=1). Written against vLLM 0.32."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2

from rethink.policies.endpoint.faults import Fault, parse_error
from rethink.policies.tls import tls_context
from rethink.policies.vllm.protocol import ADAPTER, GENERATE, ServerInfo, read_info

CONNECT_S = 30.0
RESET_ATTEMPTS = 20


class ServerLost(Exception):
    """A server cannot be sampled from; the message gives the reason."""


class Server:
    """The address and state of a server. `lost_reason` is "" while it is used, and `model` is what it served at first. A
    server with a Unix socket is colocated: it runs for this process only, on the same device."""

    def __init__(self, url: str, *, socket: str | None = None, key: str = "", timeout_s: float) -> None:
        self.url = url
        self.socket = socket
        self.colocated = socket is not None
        self.timeout_s = timeout_s
        self.lost_reason = ""
        self.model = ""
        self.on_close: Callable[[], object] = lambda: None
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._sleeping = False
        self._adapter = ""
        self._info: ServerInfo | None = None
        self._control = httpx2.Client(
            base_url=url,
            headers=self._headers,
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S)),
            # One connection per call: a kept one that the server closes just as we use it looks like a dead server.
            transport=httpx2.HTTPTransport(
                verify=tls_context(True), uds=socket, limits=httpx2.Limits(max_keepalive_connections=0)
            ),
        )

    def client(self, concurrency: int) -> httpx2.AsyncClient:
        """Return a client for `generate`, for use in one event loop."""
        limits = httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        return httpx2.AsyncClient(
            base_url=self.url,
            headers={**self._headers, "Content-Type": "application/json"},
            timeout=httpx2.Timeout(None, connect=min(self.timeout_s, CONNECT_S)),
            transport=httpx2.AsyncHTTPTransport(verify=tls_context(True), uds=self.socket, limits=limits),
        )

    async def generate(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[int, bytes] | Fault:
        """Send a request for a sample; return the status and content of the answer."""
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await client.post(GENERATE, content=json.dumps(body).encode())
        except TimeoutError:
            return Fault("time-out", f"no answer within {self.timeout_s:g} s (sampler.timeout_s)")
        except httpx2.RequestError as err:
            return Fault(type(err).__name__, str(err))
        return answer.status_code, answer.content

    def call(self, path: str, body: dict[str, Any] | None = None, *, method: str = "POST", **params: Any) -> Any:
        """Send a request; return the JSON of the answer, None if it has none.

        Raise ServerLost if the server does not answer or reports a failure."""
        try:
            answer = self._control.request(method, path, json=body, params=params)
        except httpx2.RequestError as err:
            raise ServerLost(f"{type(err).__name__}: {err}") from err
        try:
            payload = answer.json()
        except ValueError:
            payload = None
        if not answer.is_success:
            raise ServerLost(f"HTTP {answer.status_code} from {path}: {parse_error(payload)[0] or answer.text[:500]}")
        return payload

    @property
    def info(self) -> ServerInfo:
        """The server's configuration, requested once; may raise ServerLost."""
        return self._info or self.request_info()

    def request_info(self) -> ServerInfo:
        """Return the present configuration, which a restart may have changed. Raise ServerLost if it cannot be read."""
        world_size = self.call("/get_world_size", method="GET")
        payload = self.call("/server_info", method="GET", config_format="json")
        try:
            self._info = read_info(payload, world_size)
        except (LookupError, TypeError, ValueError) as err:
            raise ServerLost(f"its /server_info is not that of vLLM 0.32: {type(err).__name__} {err}") from err
        self.model = self.model or self._info.model
        return self._info

    def begin_update(self) -> None:
        """Pause: abort the samples in flight and accept no new ones."""
        self.wake()
        self.call("/pause", mode="abort")

    def end_update(self, label: str) -> None:
        """Clear the cache of the old weights and resume.

        Raise ServerLost if the cache cannot be cleared, or if the weights have another label."""
        for _ in range(RESET_ATTEMPTS):
            if self.call("/reset_prefix_cache")["success"]:
                break
            time.sleep(0.1)  # blocks of aborted requests are still being freed
        else:
            raise ServerLost("its prefix cache cannot be reset")
        found = self.weight_label()
        if found != label:
            raise ServerLost(f"it has the weights {found!r} instead of {label!r}")
        self.call("/resume")

    def weight_label(self) -> str:
        """Return the label of the present weights; that of a new server is "default"."""
        return str(self.call("/weight_info", method="GET")["weight_version"])

    def require_base(self) -> None:
        """Raise ServerLost if a run has replaced the weights of the base model, for which the adapter is."""
        found = self.weight_label()
        if found != "default" and not found.startswith(ADAPTER):
            raise ServerLost(f"a run has replaced its base model's weights (by {found!r}); restart it")

    def load_adapter(self, label: str, folder: Path) -> None:
        """Load the adapter in this folder, by the name `label`, instead of the one before it."""
        self.unload_adapter()
        self.call("/v1/load_lora_adapter", {"lora_name": label, "lora_path": str(folder)})
        self._adapter = label

    def unload_adapter(self) -> None:
        """Forget the adapter that was loaded last."""
        if self._adapter:
            with suppress(ServerLost):  # a server that does not have it any more
                self.call("/v1/unload_lora_adapter", {"lora_name": self._adapter})
        self._adapter = ""

    def start_weight_update(self) -> None:
        """Start an update, after ending one that a dead trainer left open.

        The first attempt to end it may fail because of weights that were never sent."""
        for _ in range(2):
            try:
                self.call("/start_weight_update")
                return
            except ServerLost:
                with suppress(ServerLost):
                    self.call("/finish_weight_update")
        self.call("/start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Pass on the trainer engine's update. Handles of GPU memory are sent pickled, as vLLM's own client does."""
        if "ipc_handles" in update_info:
            handles = base64.b64encode(pickle.dumps(update_info["ipc_handles"])).decode()
            update_info = {k: v for k, v in update_info.items() if k != "ipc_handles"}
            update_info["ipc_handles_pickled"] = handles
        try:
            self.call("/update_weights", {"update_info": update_info})
        except ServerLost as err:
            raise ServerLost(f"it does not accept the weights of this run; does it serve model.path? {err}") from err

    def sleep(self) -> None:
        """Release the GPU memory of a colocated server for the trainer; its weights move to the host's memory."""
        if self.colocated and self.info.sleeps and not self._sleeping:
            self.call("/sleep", level=1, mode="abort")
            self._sleeping = True

    def wake(self) -> None:
        """Take the GPU memory back."""
        if self._sleeping:
            self.call("/wake_up")
            self._sleeping = False

    def reconnect(self) -> bool:
        """Return whether a lost server answers again; its state is then reset to that of a new one."""
        try:
            self.call("/health", method="GET")
        except ServerLost:
            return False
        self.lost_reason, self._sleeping, self._adapter, self._info = "", False, "", None
        return True

    def close(self) -> None:
        """Close connections. A colocated server ends, others keep running."""
        self._control.close()
        self.on_close()
