"""`rethink serve`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from rethink.commands.arguments.declared import USE, Declared
from rethink.commands.arguments.options import MODEL, Endpoint, Model, PromptRecipe
from rethink.serving.limits import Limits

SERVER = "Server"
LIMITS = "Limits"
DEFAULTS = Limits()


def serve(
    model: Model,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="Recipe settings to replace.")
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            help="Strategy for requests that name no model: refine (default), solve, vote:5, ...", rich_help_panel=MODEL
        ),
    ] = "",
    recipe: PromptRecipe = "",
    endpoint: Endpoint = None,
    name: Annotated[
        str,
        typer.Option(help="Name of the model for clients; default: MODEL, or its last folder.", rich_help_panel=SERVER),
    ] = "",
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; 0.0.0.0 is reachable from other machines.", rich_help_panel=SERVER),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free one.", rich_help_panel=SERVER)
    ] = 8000,
    api_key_env: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Environment variable with the key that clients must send.",
            rich_help_panel=SERVER,
        ),
    ] = "",
    concurrency: Annotated[
        int, typer.Option(min=1, help="Replies to work on at once.", rich_help_panel=LIMITS)
    ] = DEFAULTS.concurrency,
    queue: Annotated[
        int,
        typer.Option(min=0, help="Replies that may wait; after that, requests get HTTP 429.", rich_help_panel=LIMITS),
    ] = DEFAULTS.queue,
    max_samples: Annotated[
        int,
        typer.Option(min=1, help="Replies that all passes of a request may draw.", rich_help_panel=LIMITS),
    ] = DEFAULTS.max_samples,
    max_body: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES",
            min=1024,
            help="Largest body of a request: 1 MiB if not set, or 20 MiB for a model that takes images.",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Time that running requests get after SIGTERM.",
            rich_help_panel=LIMITS,
        ),
    ] = DEFAULTS.grace_s,
) -> None:
    """Serve a model to OpenAI clients, and let it refine its replies, vote or merge (docs/serving.md).

    Useful settings: evaluation.sampling.max_tokens=2048 (the limit of each reply), sampler.max_prompt_tokens=8192, and
    prompts.refine="...".
    """
    from rethink.commands.serve import serve as run
    from rethink.commands.typed_settings import with_options

    limits = replace(
        DEFAULTS,
        concurrency=concurrency,
        queue=queue,
        max_samples=max_samples,
        body_bytes=max_body or DEFAULTS.body_bytes,
        image_body_bytes=max_body or DEFAULTS.image_body_bytes,
        grace_s=grace,
    )
    options = {"evaluation.strategy": strategy, "endpoint.url": endpoint}
    run(model, recipe, with_options(options, settings or []), name, limits, host, port, api_key_env)


COMMAND = Declared(
    serve,
    USE,
    examples=(
        "rethink serve tiny-signs --recipe demo-gsr --strategy merge:3",
        "rethink serve Qwen/Qwen3-0.6B evaluation.sampling.max_tokens=2048 --port 8001",
        "rethink serve my-model --endpoint http://localhost:8000 --strategy refine --api-key-env SERVER_KEY",
    ),
)
