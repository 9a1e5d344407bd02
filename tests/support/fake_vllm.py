"""A fake vLLM server on loopback with the routes that a policy uses: scripted replies, and a record of the requests."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import torch
from safetensors.torch import load_file
from torch import Tensor

from rethink.models.language_model import LanguageModel
from rethink.policies.vllm.plugin import FILES
from support.fake_endpoint import LoopbackServer

Answer = tuple[int, Any]
"""Status and JSON body; status 0 cuts the connection."""

GENERATE = "/inference/v1/generate"
CONTROL = {"/health", "/get_world_size", "/server_info", "/weight_info"}


class FakeVllm:
    """`events` has the path of each request that changes something, `requests` the bodies of requests for samples.

    `script` maps a request's body to the ids of the reply, `log_probs` prompt and ids to their log-probs. `answers` has,
    by path, answers to send once instead of the usual ones. `label` is the version of the weights. With `lora`, it loads
    adapters: `adapters` has their files' content by name, and `weights` is then only what was sent besides. `sent` has the
    names in each file of weights, and `staying` those that are sent once.
    """

    def __init__(self, stop_id: int, **model: Any) -> None:
        self.script: Callable[[dict[str, Any]], list[int]] = lambda body: [body["token_ids"][0], stop_id]
        self.log_probs: Callable[[list[int], list[int]], list[float]] = lambda prompt, ids: [-0.5] * len(ids)
        defaults = {"logprobs_mode": "processed_logprobs", "dtype": "torch.float32", "enable_sleep_mode": False}
        self.model = {"model": "tiny", "max_model_len": 128, **defaults, **model}
        self.backend: str | None = FILES
        self.lora: dict[str, Any] | None = None
        self.adapters: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {}
        self.stop_id = stop_id
        self.label = "default"
        self.init_info: dict[str, Any] = {}
        self.weights: dict[str, Tensor] = {}
        self.staying: dict[str, Tensor] = {}
        self.sent: list[list[str]] = []
        self.events: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.answers: dict[str, list[Answer]] = {}
        self.paused = False
        self.on_generate: Callable[[int], None] = lambda n: None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen, after `kill` on the same port, with the state of a new server."""
        address = ("127.0.0.1", getattr(self, "port", 0))
        self._server = LoopbackServer(address, _handler(self))
        self.port = int(self._server.server_address[1])
        self.label = "default"
        self.adapters, self.staying = {}, {}
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def kill(self) -> None:
        """Stop listening and cut all connections."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        with self._lock:
            for connection in list(self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def answer(self, path: str, query: dict[str, str], body: dict[str, Any]) -> Answer:
        with self._lock:
            if path == GENERATE:
                self.requests.append(body)
                n = len(self.requests)
            elif path not in CONTROL:
                self.events.append(path)
            scripted = self.answers.get(path)
            if scripted:
                return scripted.pop(0)
        if path == GENERATE:
            self.on_generate(n)
            if body.get("model") not in (None, *self.adapters):
                return 404, {"error": {"message": "The model does not exist."}}
            return 200, self.reply(body)
        if path.startswith("/v1/") and self.lora is not None:
            return self._adapter(path, body)
        return self._control(path, query, body)

    def reply(self, body: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Return the scripted reply in vLLM's format, or the log-probs of the prompt if the request asks for them."""
        scored = body["sampling_params"].get("prompt_logprobs") is not None
        ids = [self.stop_id] if scored else self.script(body)
        spans = [{"version": self.label, "start": 0, "end": len(ids)}]
        log_probs = self.log_probs(body["token_ids"], ids)
        content = [{"token_id": i, "logprob": lp, "rank": 1} for i, lp in zip(ids, log_probs, strict=True)]
        choice = {
            "index": 0,
            "token_ids": ids,
            "logprobs": {"content": content},
            "finish_reason": "stop" if ids[-1:] == [self.stop_id] else "length",
            "stop_reason": None,
            "weight_versions": spans,
            **more,
        }
        prompt_log_probs = self._score(body["token_ids"]) if scored else None
        return {"output_mode": "tokens", "choices": [choice], "prompt_logprobs": prompt_log_probs}

    def _score(self, ids: list[int]) -> list[Any]:
        """Return one dictionary per token, except for the first token."""
        entries: list[Any] = [None]
        for token, log_prob in zip(ids[1:], self.log_probs(ids[:1], ids[1:]), strict=True):
            entries.append({str(token): {"logprob": log_prob, "rank": 1, "decoded_token": None}})
        return entries

    def _control(self, path: str, query: dict[str, str], body: dict[str, Any]) -> Answer:
        match path:
            case "/server_info" if query == {"config_format": "json"}:
                transfer = None if self.backend is None else {"backend": self.backend}
                config = {"model_config": self.model, "weight_transfer_config": transfer, "lora_config": self.lora}
                return 200, {"vllm_config": config}
            case "/get_world_size":
                return 200, {"world_size": 2}
            case "/weight_info":
                return 200, {"weight_version": self.label}
            case "/init_weight_transfer_engine":
                self.init_info = body["init_info"]
                probe = self.init_info.get("probe")
                return (200, {}) if probe is None or Path(probe).is_file() else (500, {"error": "no such file"})
            case "/update_weights" if self.paused:
                sent = load_file(body["update_info"]["file"])
                self.staying |= sent if body["update_info"].get("stays") else {}
                self.weights = {**self.staying, **sent}
                self.sent.append(sorted(sent))
            case "/finish_weight_update":
                self.label = body["weight_version"]
            case "/update_weight_version":
                self.label = body["new_version"]
            case "/pause" | "/resume":
                self.paused = path == "/pause"
            case "/reset_prefix_cache":
                return 200, {"success": True}
            case "/health" | "/start_weight_update" | "/sleep" | "/wake_up":
                pass
            case _:
                return 404, {"error": {"message": f"{path} {query} {body}"}}
        return 200, {}

    def _adapter(self, path: str, body: dict[str, Any]) -> Answer:
        name = body["lora_name"]
        if path == "/v1/unload_lora_adapter":
            return (200, None) if self.adapters.pop(name, None) else (404, {"error": {"message": "cannot be found"}})
        folder = Path(body["lora_path"])
        config = json.loads((folder / "adapter_config.json").read_text())
        assert self.lora is not None
        if name in self.adapters or config["r"] > self.lora["max_lora_rank"]:
            return 500, {"error": {"message": f"LoRA rank {config['r']} is too large, or {name} is loaded"}}
        self.adapters[name] = config, load_file(folder / "adapter_model.safetensors")
        return 200, None


def _handler(fake: FakeVllm) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            fake._open.add(self.connection)

        def finish(self) -> None:
            fake._open.discard(self.connection)
            super().finish()

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else {}
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, payload = fake.answer(parts.path, query, body)
            if not status or fake._server is None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            content = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: tests read `events` and `requests`."""

    return Handler


@contextlib.contextmanager
def running(fake: FakeVllm) -> Iterator[FakeVllm]:
    """Yield the server and kill it at the end."""
    try:
        yield fake
    finally:
        fake.kill()


def _merged(base: dict[str, Tensor], config: dict[str, Any], adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapted weights W + alpha / r * B A."""
    found = {}
    for name, a in adapter.items():
        layer, is_a, _ = name.partition(".lora_A.")
        if is_a:
            b = adapter[f"{layer}.lora_B.weight"]
            weight = f"{layer.removeprefix('base_model.model.')}.weight"
            found[weight] = base[weight] + config["lora_alpha"] / config["r"] * (b.float() @ a.float())
    return found


@contextlib.contextmanager
def computing_server(model: LanguageModel) -> Iterator[FakeVllm]:
    """Yield a server that computes log-probs with the weights that it was sent, by overwriting those of `model`."""
    (stop_id,) = model.chat.stop_ids
    fake = FakeVllm(stop_id)
    base = {name: weight.clone() for name, weight in model.module.state_dict().items()}

    @torch.no_grad()
    def log_probs(prompt: list[int], ids: list[int]) -> list[float]:
        if fake.label in fake.adapters:
            fake.weights = {**base, **_merged(base, *fake.adapters[fake.label])}
        model.module.load_state_dict(fake.weights, strict=False)
        logits = model.module(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        found: list[float] = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()
        return found

    fake.log_probs = log_probs
    fake.script = lambda body: [2 + body["sampling_params"]["seed"] % k for k in (7, 11)] + [stop_id]
    with running(fake):
        yield fake
