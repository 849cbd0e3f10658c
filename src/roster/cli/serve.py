"""`roster serve DIR`: a routed mixture behind OpenAI's API."""

from __future__ import annotations

from typing import Annotated

import typer

from roster.cli.common import DtypeOption, MixtureBase, MixtureFolder, TemplateOption, console, open_mixture
from roster.errors import RosterError


def serve(
    folder: MixtureFolder,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0: any that is free.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="ROSTER_API_KEY", help="What requests must carry; needed at addresses beyond this machine."
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Answers at work at once, in one forward pass a token.")] = 32,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are refused.")] = 256,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 1024,
    check: Annotated[
        bool, typer.Option("--check", help="Load the mixture, print what would be served, and end.")
    ] = False,
    template: TemplateOption = None,
    dtype: DtypeOption = None,
    base: MixtureBase = None,
) -> None:
    """Serve a mixture as OpenAI's API: every adapter, the base, and `auto`, which is the router.

    At / is a page to try it on; /metrics is for Prometheus.

    \b
    Examples:
      roster build pocket pocket --router arrow-mbc --out my-mixture
      roster serve my-mixture --check
    """
    try:
        from roster.gateway.config import Listen
        from roster.serve.serving import Bounds, check_reach, make_server
        from roster.serve.serving import serve as run
    except ImportError as error:
        raise RosterError(f"{error.name} is missing: pip install 'roster-moe[gateway]'") from None
    check_reach(host, api_key)
    bounds = Bounds(rows, waiting, max_tokens)
    server = make_server(open_mixture(folder, base, template, dtype), bounds)
    told = console(stderr=not check)
    told.print(f"models: {', '.join(server.mixture.names)}", markup=False, soft_wrap=True)
    if check:
        return
    told.print(f"http://{host}:{port}/v1, and a page to try it on at http://{host}:{port}/", markup=False)
    run(server, Listen(host=host, port=port), api_key, bounds.request_bytes)
