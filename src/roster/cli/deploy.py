"""`roster deploy DIR`: a routed mixture for a serving engine with adapters, and the gateway in front of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roster.cli.common import MixtureBase, MixtureFolder, TemplateOption, console, open_mixture, progress_bar
from roster.errors import RosterError, nearest

ENGINES = ("vllm",)


def deploy(
    folder: MixtureFolder,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    engine: Annotated[str, typer.Option(help="Who computes the answers: vllm.")] = "vllm",
    replica: Annotated[
        list[str] | None,
        typer.Option(help="Address of a running engine, up to /v1; repeatable: the gateway asks the least busy one."),
    ] = None,
    reads: Annotated[
        str,
        typer.Option(
            help="What the gateway reads of a prompt: `first` (the base's first blocks, as few as do), `auto` (as many "
            "as auto itself), or an encoder: tfidf, minilm, api:MODEL@URL."
        ),
    ] = "first",
    engine_base: Annotated[
        str | None, typer.Option(help="Where the engine finds the base, if not where this mixture has it.")
    ] = None,
    template: TemplateOption = None,
    base: MixtureBase = None,
) -> None:
    """Write what it takes to serve a mixture by vLLM, for those who outgrow `roster serve`.

    The folder holds the adapters in PEFT's format, the engine's start script, and the gateway's config, whose policy
    sends each prompt to the adapter that it resembles, or to the base, as `auto` does.

    \b
    Examples:
      roster build pocket pocket --out my-mixture
      roster deploy my-mixture --engine vllm --out deployed
      roster deploy my-mixture --reads tfidf --out deployed \\
        --replica http://127.0.0.1:8200/v1 --replica http://127.0.0.1:8201/v1
    """
    if engine not in ENGINES:
        raise RosterError(f"--engine takes one of {', '.join(ENGINES)}: {nearest(engine, ENGINES)}")
    try:
        from roster.deploy.deploying import GATEWAY, Deployment
        from roster.deploy.deploying import deploy as write
    except ImportError as error:
        raise RosterError(f"{error.name} is missing: pip install 'roster-moe[gateway]'") from None
    from roster.deploy.vllm import SCRIPT

    where = engine_base or base or base_of(folder)
    wanted = Deployment(where, reads=reads) if replica is None else Deployment(where, replica, reads)
    model = open_mixture(folder, base, template)
    with progress_bar() as bar:
        task = bar.add_task("reading examples", total=None)
        probe = write(model, out, wanted, lambda count: bar.advance(task, count))
    shares = probe.validation
    console(stderr=True).print(
        f"by cross-validation {shares['reached']:.1%} of the examples reach their adapter, and "
        f"{shares['general_left']:.1%} of general prompts are left to the base",
        highlight=False,
    )
    typer.echo(f"wrote {out}\nengine:  {out / SCRIPT}\ngateway: roster gateway {out / GATEWAY}")


def base_of(folder: str) -> str:
    """Where the base of a mixture is found: its public name, or the folder within the mixture."""
    from roster.adapters.manifest import BASE, MixtureManifest
    from roster.folders import kind_of
    from roster.routed.base import locate
    from roster.saving import read_manifest

    if kind_of(Path(folder)) != "mixture":
        raise RosterError("`roster deploy` serves mixtures of adapters, as `roster build` writes them")
    manifest = read_manifest(Path(folder), MixtureManifest)
    if manifest.base.included or manifest.base.name is None:
        return str((Path(folder) / BASE).resolve())
    found, _ = locate(manifest.base.name)
    return found
