"""`rethink serve`: an OpenAI-compatible server that thinks twice."""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rethink.commands.console import print_note, warn
from rethink.credentials import check_variable
from rethink.errors import UserError, install_extra
from rethink.policies.cancel import Cancellation
from rethink.serving.limits import Limits

if TYPE_CHECKING:
    from rethink.policies.base import Policy
    from rethink.policies.local.engine import Engine
    from rethink.policies.local.live_policy import LivePolicy
    from rethink.recipe import Recipe
    from rethink.serving.metrics import Metrics
    from rethink.serving.served_model import OpenPolicy, ServedModel
    from rethink.settings import Endpoint as EndpointSettings

ROWS_PER_CHOICE = 4
"""Rows of the KV cache for each choice that is worked on, as far as memory allows: votes decode several replies at once."""

IMAGE_BYTES = 2**29
"""The vectors of images that a server keeps; a training run, which meets its images again, keeps more."""

MIN_KEY = 8


def serve(
    model: str,
    recipe: str,
    settings: Sequence[str],
    name: str,
    limits: Limits,
    host: str,
    port: int,
    api_key_env: str,
) -> None:
    """Serve a model. Raise UserError if a package is missing, or the model, the strategy or the key cannot be used."""
    for module in ("starlette", "uvicorn", "prometheus_client"):
        try:
            importlib.import_module(module)
        except ImportError as err:
            raise UserError(f"rethink serve needs {module}: {install_extra('serve')}") from err
    run(_resolve(model, recipe, settings), name or _short_name(model), limits, host, port, _key(api_key_env))


def run(recipe: Recipe, name: str, limits: Limits, host: str, port: int, key: str) -> None:
    """Open the model and serve it until a signal comes."""
    from rethink.serving import server
    from rethink.serving.app import LOCAL_HOSTS, App
    from rethink.serving.service import Service

    listening = server.listen(host, port)
    is_local = _is_loopback(host)
    if not is_local and not key:
        warn(f"{host} may be reachable from other machines, and no key is asked for: set one with --api-key-env NAME")
    with contextlib.closing(listening), contextlib.ExitStack() as opened:
        live = None if recipe.endpoint.url else _open_live(recipe, limits_of(recipe, limits))
        if live is not None:
            opened.callback(live.close)
        limits = limits_of(recipe, limits, live)
        served = serve_model(recipe, name, limits, live)
        service = Service(served, limits, print_note)
        if live is not None:
            _show_engine(service.metrics, live.engine)
        app = App(service, key, frozenset({*LOCAL_HOSTS, _in_url(host)}) if is_local and not key else None).build()
        address = f"http://{_in_url(host)}:{listening.getsockname()[1]}"
        print_note(f"models: {', '.join(served.names)}, and {name}+STRATEGY")
        print_note(f"serving at {address}/v1 and {address}/metrics; stop with Ctrl-C")
        server.run(app, service, listening, print_note)


def limits_of(recipe: Recipe, limits: Limits, live: LivePolicy | None = None) -> Limits:
    """Return the limits with those of the model: on a reply's tokens, the longest that the recipe asks for or what the
    engine has; on a prompt's tokens; on bodies, room for images if it takes some. Of an endpoint's model, the last two are
    not known."""
    plan = recipe.evaluation
    wanted = max(s.max_tokens for s in (plan.sampling, plan.refine_sampling or plan.sampling))
    if live is None:
        return replace(limits, max_tokens=wanted)
    body_bytes = limits.body_bytes if live.model.chat.image_text is None else limits.image_body_bytes
    shape = live.shape
    return replace(
        limits, max_tokens=shape.reply_columns + 1, prompt_tokens=shape.prompt_columns, body_bytes=body_bytes
    )


def serve_model(recipe: Recipe, name: str, limits: Limits, live: LivePolicy | None) -> ServedModel:
    """Return the model that a recipe names: the live policy, or the recipe's endpoint.

    Raise UserError for an endpoint that cannot be used, a judge on this machine, and a strategy that cannot run."""
    from rethink.build import build_prompts
    from rethink.serving.api_error import ApiError
    from rethink.serving.served_model import ServedModel

    plan = recipe.evaluation
    open_policy = _remote(recipe, recipe.endpoint, recipe.model.path) if live is None else live.for_call
    served = ServedModel(
        name=name,
        strategy=plan.strategy,
        settings=plan,
        open_policy=open_policy,
        make_prompts=partial(build_prompts, recipe),
        source=plan.problems,
        thinking=recipe.model.thinking,
        open_judge=_open_judge(recipe, open_policy),
        is_remote=live is None,
        has_stopped=lambda: live is not None and live.engine.has_failed,
    )
    try:
        served.find_strategy(None, 1, limits)
    except ApiError as err:
        raise UserError(f"--strategy {plan.strategy}: {err.message}") from err
    return served


def _open_live(recipe: Recipe, limits: Limits) -> LivePolicy:
    """Load the model of a recipe. Prompts get the positions that the longest reply leaves, at least half of them."""
    from rethink.build import local_policy
    from rethink.build import open_model as load
    from rethink.policies.local.live_policy import open_live_policy

    local = local_policy(recipe, load(recipe.model, recipe.seed), recipe.evaluation.sampling)
    local.take_weights()
    if local.model.image_vectors is not None:
        local.model.image_vectors.limit_bytes = IMAGE_BYTES
    positions = local.max_positions
    n_new = limits.max_tokens if positions is None else min(limits.max_tokens, positions // 2)
    n_prompt = recipe.sampler.max_prompt_tokens
    n_prompt = n_prompt if positions is None else min(n_prompt, positions - n_new)
    live = open_live_policy(local, n_prompt, n_new, limits.concurrency * ROWS_PER_CHOICE)
    shape = live.shape
    print_note(f"limits: {n_prompt} prompt tokens, {n_new} tokens a reply, {shape.n_rows} replies decoded together")
    return live


def _remote(recipe: Recipe, endpoint: EndpointSettings, model: str) -> OpenPolicy:
    """Return what opens a policy over an endpoint: one for each call, because its failures are counted, and because a
    client that leaves ends its requests."""
    from rethink.policies.endpoint.policy import EndpointPolicy

    def open_policy(cancellation: Cancellation, stop: Sequence[str]) -> Policy:
        sampling = recipe.evaluation.sampling
        return EndpointPolicy(
            endpoint, model, sampling, overlong="skip", warn=warn, stop=stop, cancellation=cancellation
        )

    open_policy(Cancellation(), ())  # refuse a wrong URL now
    return open_policy


def _open_judge(recipe: Recipe, open_policy: OpenPolicy) -> OpenPolicy | None:
    judge = recipe.judge
    if judge.endpoint.url:
        from rethink.build import check_model_name

        check_model_name(judge)
        return _remote(recipe, judge.endpoint, judge.path)
    if judge.path not in ("", "self"):
        raise UserError(
            f"rethink serve runs one model: judge.path = {judge.path!r} needs judge.endpoint.url, or write self"
        )
    return open_policy if judge.path else None


def _show_engine(metrics: Metrics, engine: Engine) -> None:
    """Show what the engine does."""
    metrics.gauge("rethink_engine_running", "Replies that are being sampled", lambda: engine.n_running)
    metrics.gauge("rethink_engine_waiting", "Sampling calls that wait for room", lambda: engine.n_waiting)
    metrics.gauge(
        "rethink_engine_reused_tokens",
        "Prompt tokens taken from the prefix cache so far",
        lambda: engine.decoder.prefiller.n_reused_tokens,
    )
    metrics.gauge(
        "rethink_engine_prefilled_tokens",
        "Prompt tokens computed so far",
        lambda: engine.decoder.prefiller.n_prefilled_tokens,
    )


def _resolve(model: str, recipe: str, settings: Sequence[str]) -> Recipe:
    """Return the recipe. Without a recipe, the default temperature is 1, as clients of OpenAI expect."""
    from rethink.commands.answer import resolve

    default = [] if recipe else ["evaluation.sampling.temperature=1.0"]
    return resolve(model, recipe, [*default, *settings], unused=("n", "n_refine", "k", "batch_size"))[0]


def _short_name(model: str) -> str:
    """Return a name that tells clients nothing about folders."""
    return model if "/" not in model.strip("/") or not Path(model).exists() else Path(model).resolve().name


def _key(variable: str) -> str:
    """Return the key that clients must send; "" for none. Raise UserError if the variable is not set."""
    if not variable:
        return ""
    try:
        key = os.environ.get(check_variable(variable), "").strip()
    except ValueError as err:
        raise UserError(f"--api-key-env {err}") from None
    if len(key) < MIN_KEY:
        raise UserError(f"--api-key-env: {variable} is not set, or holds fewer than {MIN_KEY} characters")
    return key


def _in_url(host: str) -> str:
    """Return a host as it stands in an address: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
