"""The vLLM servers of a run: all of them get published weights, and one that fails is left out."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from rethink.errors import UserError
from rethink.policies.vllm.adapter import AdapterSender, AdapterSource, write_zeros
from rethink.policies.vllm.protocol import ADAPTER, HOW_TO_START
from rethink.policies.vllm.server import Server, ServerLost
from rethink.policies.vllm.transfer import FileSender, VllmSender, WeightSource, open_sender, shared_memory

UNFINISHED = "/unfinished"
"""The end of the label of weights that are part old, part new: nobody samples from them, even if this process dies now."""


class Fleet:
    """The servers and the weights that they should have: the base model's with `adapter`, if it is not None, or else
    `weights`.

    `label` names the published weights: a random id of the run and the version. Weights of another run, or of a server
    that was restarted, have other labels. `warn` is called for each lost server.

    `merged_because` says why a model's adapter is merged into the weights.

    A fleet is also the client of vLLM's trainer engines: it passes their calls to all servers at once.
    """

    def __init__(self, servers: Sequence[Server], weights: WeightSource, *, warn: Callable[[str], None]) -> None:
        self.servers = servers
        self.weights = weights
        self.adapter: AdapterSource | None = None
        self.merged_because = ""
        self.warn = warn
        self.label = ""
        self._run = uuid.uuid4().hex
        self._sender: AdapterSender | FileSender | VllmSender | None = None
        self._receivers: list[Server] = []
        self._lock = Lock()

    def check_servers(self) -> None:
        """Raise UserError if a server does not answer or cannot sample for training."""
        for server in self.servers:
            fault = why_unusable(server)
            if fault:
                raise UserError(fault)
        backends = {server.info.backend for server in self.servers}
        if len(backends) > 1:
            raise UserError(f"the servers use different weight transfer backends: {', '.join(sorted(backends))}")

    def why_not(self, adapter: AdapterSource) -> str:
        """Return why a server cannot use this adapter; "" if all of them have loaded one with the same layers."""
        with tempfile.TemporaryDirectory(prefix="rethink-", dir=shared_memory()) as folder:
            write_zeros(adapter, Path(folder))
            for server in self.servers:
                fault = why_no_adapter(server, adapter)
                if fault:
                    return fault
                try:
                    server.require_base()
                    server.load_adapter(f"{ADAPTER}{self._run}/trial", Path(folder))
                    server.unload_adapter()
                except ServerLost as err:
                    return f"{server.url}: {err}"
        return ""

    @property
    def max_model_len(self) -> int:
        """The largest number of tokens of prompt and reply together."""
        return min(server.info.max_model_len for server in self.alive())

    def alive(self) -> list[Server]:
        """Return the servers that are not lost. Raise UserError if there are none."""
        left = [server for server in self.servers if not server.lost_reason]
        if not left:
            lost = "; ".join(f"{server.url}: {server.lost_reason}" for server in self.servers)
            raise UserError(
                f"no vLLM server is left to sample from ({lost}). The last checkpoint of the run is untouched: restart the "
                "servers and resume with --resume"
            )
        return left

    def mark_lost(self, server: Server, reason: str) -> None:
        """Leave a server out until a `publish` finds that it answers again."""
        with self._lock:
            is_new = not server.lost_reason
            server.lost_reason = server.lost_reason or reason
        if is_new:
            self.warn(f"lost the vLLM server {server.url}: {reason}")

    def publish(self, version: int) -> None:
        """Pause all servers, send the weights, clear their caches and resume; lost servers that answer again take part.

        Raise UserError if no server is left."""
        before = self.label
        self.label = f"{'' if self.adapter is None else ADAPTER}{self._run}/{version}"
        for server in self.servers:
            reason = server.lost_reason
            if reason and server.reconnect():
                fault = self._why_not_again(server)
                if not fault:
                    self._receivers = []
                elif fault == reason:
                    server.lost_reason = reason  # it was said before
                else:
                    self.mark_lost(server, fault)
        self._on_all(Server.begin_update)
        if before:
            self._on_all(lambda server: self._check_label(server, before))
        receivers = self.alive()
        if self._sender is None or receivers != self._receivers:
            self._open_sender(receivers)
        assert self._sender is not None
        self._sender.send()
        self._on_all(lambda server: server.end_update(self.label))

    def _why_not_again(self, server: Server) -> str:
        """Return why a server that answers again cannot be used, perhaps with other options than before; "" if it can."""
        fault = why_unusable(server)
        if not fault and self.adapter is not None:
            fault = why_no_adapter(server, self.adapter)
        if not fault and server.info.model != server.model:
            fault = f"{server.url} now serves {server.info.model}, before {server.model}; restart it with that model"
        others = {other.info.backend for other in self.alive() if other is not server}
        if not fault and others and server.info.backend not in others:
            fault = f"{server.url} now has the weight transfer backend {server.info.backend}, the others {others.pop()}"
        return fault

    def _check_label(self, server: Server, label: str) -> None:
        """Have all weights sent if a server's are not those of this label: another run may have replaced any of them, or
        the server was restarted. Raise ServerLost if it can then no longer be used."""
        if server.weight_label() != label:
            server.request_info()
            fault = self._why_not_again(server)
            if fault:
                raise ServerLost(fault)
            self._receivers = []

    def sleep(self) -> None:
        """Release the GPU memory of colocated servers for the trainer."""
        self._on_all(Server.sleep)

    def wake(self) -> None:
        """Take the GPU memory back."""
        self._on_all(Server.wake)

    def close(self) -> None:
        """Close all connections and stop colocated servers."""
        self._close_sender()
        for server in self.servers:
            server.close()

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Give each server's workers their own ranks, after those of the servers before it."""
        offsets, offset = {}, init_info.get("rank_offset")
        for server in self.alive():
            offsets[server] = {} if offset is None else {"rank_offset": offset}
            offset = None if offset is None else offset + server.info.world_size
        self._on_all(lambda s: s.call("/init_weight_transfer_engine", {"init_info": {**init_info, **offsets[s]}}))

    def load_adapter(self, folder: Path) -> None:
        """Let all servers load the adapter in this folder, and label their weights."""

        def load(server: Server) -> None:
            server.load_adapter(self.label, folder)
            server.call("/update_weight_version", {"new_version": self.label})

        self._on_all(load)

    def start_weight_update(self) -> None:
        """Start an update on all servers, whose weights have no run's label until all of them have arrived."""

        def start(server: Server) -> None:
            server.call("/update_weight_version", {"new_version": f"{self.label}{UNFINISHED}"})
            server.start_weight_update()

        self._on_all(start)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._on_all(lambda server: server.update_weights(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        label = weight_version or self.label
        self._on_all(lambda server: server.call("/finish_weight_update", {"weight_version": label}))

    def _open_sender(self, receivers: Sequence[Server]) -> None:
        self._close_sender()
        if self.adapter is not None:
            self._on_all(Server.require_base)
            self._sender = AdapterSender(self, self.adapter, getattr(torch, self.alive()[0].info.lora_dtype))
            self._receivers = self.alive()
            return
        info = receivers[0].info
        world_size = sum(server.info.world_size for server in receivers)
        dtype = getattr(torch, info.dtype)
        self._sender = open_sender(info.backend, self, self.weights, dtype, receivers[0].url, world_size)
        self._receivers = self.alive()

    def _close_sender(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _on_all(self, act: Callable[[Server], object]) -> None:
        """Call `act` on all servers at once; those that fail are lost. Raise UserError if none is left."""
        servers = self.alive()
        with ThreadPoolExecutor(len(servers)) as pool:
            list(pool.map(lambda server: self._call_or_mark_lost(server, act), servers))
        self.alive()

    def _call_or_mark_lost(self, server: Server, act: Callable[[Server], object]) -> None:
        try:
            act(server)
        except ServerLost as err:
            self.mark_lost(server, str(err))


def why_unusable(server: Server) -> str:
    """Return why a server cannot sample for training; "" if it can."""
    try:
        info = server.info
    except ServerLost as err:
        return (
            f"{server.url} does not answer as a vLLM server with the routes for training: {err}; start it with "
            "VLLM_SERVER_DEV_MODE=1 (docs/vllm.md)"
        )
    if not info.backend:
        return f"{server.url} does not accept weights from a trainer; {HOW_TO_START}"
    if info.logprobs_mode != "processed_logprobs":
        return (
            f"{server.url} returns {info.logprobs_mode}, but training needs log-probs of the distribution that was sampled "
            f"from; {HOW_TO_START}"
        )
    return ""


def why_no_adapter(server: Server, adapter: AdapterSource) -> str:
    """Return why a server's options do not allow this adapter; "" if they do."""
    if not server.info.lora_dtype:
        return f"{server.url} was started without --enable-lora"
    modules = server.info.lora_modules
    if modules is None or not modules >= set(adapter.modules):
        # It would ignore the other layers, or, without a list, crash when it scores replies.
        return f"{server.url} was started without --lora-target-modules {' '.join(adapter.modules)}"
    return ""
