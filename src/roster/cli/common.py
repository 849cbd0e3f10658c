"""What several commands share: the alias of the pocket experts, quiet libraries, options, mixtures, tables."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from roster.errors import RosterError, RosterNote

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

MixtureFolder = Annotated[str, typer.Argument(help="What `roster build` wrote.")]
TemplateOption = Annotated[
    bool | None,
    typer.Option(
        "--template/--no-template",
        help="Whether prompts go through the tokenizer's chat template, where it has one. By default they do; with a "
        "saved mixture, as when it was built.",
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(help="Numbers of the base's weights: float32, bfloat16 or float16; by default as they are stored."),
]
MixtureBase = Annotated[
    str | None, typer.Option("--base", help="The base, for a mixture that does not carry or name its own.")
]
JobsOption = Annotated[int, typer.Option("--jobs", min=1, help="Processes of this machine to run in.")]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", help="A Ray cluster to run on: HOST:PORT, ray://HOST:PORT, `auto` (here), `local`."),
]
ExpertsFolder = Annotated[str, typer.Argument(help="A folder of PEFT adapters, or `pocket`.")]
_DTYPES = ("float32", "bfloat16", "float16")
_WIDE = 200
"""Columns of a table that goes to a file or a pipe, where nothing must be cut off."""


def complain(message: str, code: int = 2) -> NoReturn:
    """One line on standard error, and the end: 2 for errors, 130 for an interrupt."""
    # An interrupt comes in the middle of a line: of a progress bar, or of the terminal's "^C".
    start = "[bold red]error:[/]" if code == 2 else "\n[bold]stopped:[/]"
    line = " ".join(message.splitlines())
    console(stderr=True).print(start, end=" ")
    console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def experts_folder(name: str) -> Path:
    """A library's folder; "pocket" is the one that comes with roster, as it is among the bases."""
    if name == "pocket":
        from roster import pocket

        return pocket.experts_path()
    return Path(name)


@contextmanager
def importing() -> Iterator[None]:
    """Imports make many objects and hardly any garbage: the collector does not look for it, then or later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def quiet() -> None:
    """Keeps transformers and torch from talking between our lines; downloads still show their progress."""
    import warnings

    import transformers
    from huggingface_hub.utils.tqdm import enable_progress_bars

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RosterNote)
        warnings.showwarning = _show
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    enable_progress_bars()


def dtype_argument(dtype: str | None) -> dict[str, str]:
    """What `from_pretrained` is told; RosterError for another name."""
    if dtype is None:
        return {}
    if dtype not in _DTYPES:
        raise RosterError(f"--dtype takes one of {', '.join(_DTYPES)}, not {dtype!r}")
    return {"dtype": dtype}


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    console(stderr=True).print(f"note: {message}", markup=False, highlight=False, soft_wrap=True)


def open_mixture(folder: str, base: str | None, template: bool | None = None, dtype: str | None = None) -> Any:
    """A saved mixture, ready to answer; its tokenizer is `model.roster.tokenizer`."""
    from roster.adapters.manifest import MixtureManifest
    from roster.folders import kind_of, load_folder
    from roster.routed.base import load_tokenizer
    from roster.saving import read_manifest

    if base is None and kind_of(Path(folder)) == "mixture":
        manifest = read_manifest(Path(folder), MixtureManifest)
        if manifest.base.name is None and not manifest.base.included:
            raise RosterError(f"the mixture {folder!r} carries no base, and its base has no public name: give --base")
    quiet()
    model = load_folder(Path(folder), **({} if base is None else {"base": base}), **dtype_argument(dtype)).eval()
    if model.roster.tokenizer is None and base is not None:
        model.roster.tokenizer = load_tokenizer(base)
    if model.roster.tokenizer is None:
        raise RosterError(f"there is no tokenizer for the base of {folder!r}")
    if template is not None:
        model.roster.template = template
    return model


def console(stderr: bool = False) -> Console:
    """Where tables and bars go."""
    from rich.console import Console

    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=_WIDE)


def table(*columns: str, right: Sequence[str] = (), **kwargs: Any) -> Table:
    """A table whose cells fold instead of losing their ends."""
    from rich.table import Table

    made = Table(**kwargs)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def progress_bar() -> Progress:
    """A bar on standard error that leaves nothing behind."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console(stderr=True), transient=True)
