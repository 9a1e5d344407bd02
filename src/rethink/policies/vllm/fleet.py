"""All vLLM servers of a run: publishing goes to every one of them, and one that fails is left out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import torch

from rethink.errors import UserError
from rethink.policies.vllm.protocol import HOW_TO_START
from rethink.policies.vllm.server import Lost, Server
from rethink.policies.vllm.transfer import FileSender, VllmSender, WeightSource, open_sender


class Fleet:
    """The servers and the weights they should have. `label` names these: the run's own mark and the version, so that the
    weights of another run, or of a server that was started anew, are known as such. `warn` is told of each lost server.

    It is also the client of vLLM's trainer engines: what they tell a server goes to all of them at once.
    """

    def __init__(self, servers: Sequence[Server], weights: WeightSource, *, warn: Callable[[str], None]) -> None:
        self.servers = servers
        self.weights = weights
        self.warn = warn
        self.label = ""
        self._run = uuid.uuid4().hex
        self._sender: FileSender | VllmSender | None = None
        self._members: list[Server] = []
        self._lock = Lock()

    def refuse_unfit(self) -> None:
        """Raise UserError for a server that does not answer, or that cannot sample for training."""
        for server in self.servers:
            try:
                info = server.info
            except Lost as err:
                raise UserError(
                    f"{server.url} does not answer as a vLLM server with the routes for training: {err}; start it with "
                    "VLLM_SERVER_DEV_MODE=1 (docs/vllm.md)"
                ) from err
            if not info.backend:
                raise UserError(f"{server.url} takes no weights from a trainer; {HOW_TO_START}")
            if info.logprobs_mode != "processed_logprobs":
                raise UserError(
                    f"{server.url} gives {info.logprobs_mode}, but training needs the log-probs of the distribution that "
                    f"was sampled from; {HOW_TO_START}"
                )
        backends = {server.info.backend for server in self.servers}
        if len(backends) > 1:
            raise UserError(f"the servers take weights in different ways: {', '.join(sorted(backends))}")

    @property
    def max_model_len(self) -> int:
        """The longest prompt and reply together."""
        return min(server.info.max_model_len for server in self.alive())

    def alive(self) -> list[Server]:
        """The servers that may be asked. Raises UserError where none is left."""
        left = [server for server in self.servers if not server.lost]
        if not left:
            lost = "; ".join(f"{server.url}: {server.lost}" for server in self.servers)
            raise UserError(
                f"no vLLM server is left to sample from ({lost}). The last checkpoint of the run is untouched: start the "
                "servers again, and go on with --resume"
            )
        return left

    def lose(self, server: Server, why: str) -> None:
        """Leave a server out until the next `publish` finds it well again."""
        with self._lock:
            known, server.lost = bool(server.lost), server.lost or why
        if not known:
            self.warn(f"lost the vLLM server {server.url}: {why}")

    def publish(self, version: int) -> None:
        """Pause, send the weights, clear the caches, go on; servers that came back are taken in again.

        Raises UserError where no server is left."""
        self.label = f"{self._run}/{version}"
        for server in self.servers:
            if server.lost and server.look_again():
                self._members = []
        self._each(Server.begin_update)
        members = self.alive()
        if self._sender is None or members != self._members:
            self._open_sender(members)
        assert self._sender is not None
        self._sender.send()
        self._each(lambda server: server.end_update(self.label))

    def sleep(self) -> None:
        """Give memory to the trainer."""
        self._each(Server.sleep)

    def wake(self) -> None:
        """Take it back."""
        self._each(Server.wake)

    def close(self) -> None:
        """Close all connections, and end what runs for this process alone."""
        self._close_sender()
        for server in self.servers:
            server.close()

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each server's workers have ranks of their own behind those of the servers before it."""
        offsets, offset = {}, init_info.get("rank_offset")
        for server in self.alive():
            offsets[server] = {} if offset is None else {"rank_offset": offset}
            offset = None if offset is None else offset + server.info.world_size
        self._each(lambda s: s.call("/init_weight_transfer_engine", {"init_info": {**init_info, **offsets[s]}}))

    def start_weight_update(self) -> None:
        self._each(Server.start_weight_update)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._each(lambda server: server.update_weights(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        label = weight_version or self.label
        self._each(lambda server: server.call("/finish_weight_update", {"weight_version": label}))

    def _open_sender(self, members: Sequence[Server]) -> None:
        self._close_sender()
        info = members[0].info
        world_size = sum(server.info.world_size for server in members)
        dtype = getattr(torch, info.dtype)
        self._sender = open_sender(info.backend, self, self.weights, dtype, members[0].url, world_size)
        self._members = self.alive()

    def _close_sender(self) -> None:
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def _each(self, act: Callable[[Server], object]) -> None:
        """Do it on all servers at once; those that fail are lost. Raises UserError where none is left."""
        members = self.alive()
        with ThreadPoolExecutor(len(members)) as pool:
            list(pool.map(lambda server: self._guarded(server, act), members))
        self.alive()

    def _guarded(self, server: Server, act: Callable[[Server], object]) -> None:
        try:
            act(server)
        except Lost as err:
            self.lose(server, str(err))
