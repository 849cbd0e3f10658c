"""Training a model with routed blocks: a dense one whose blocks become mixtures, or a routed folder that goes on.

The data are rows with answers or plain text; what is trained is the recipe's word (most often everything). A run that
is broken off goes on from its last checkpoint, to the same bits, when the same call is made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed

from roster.errors import RosterError
from roster.folders import kind_of, load_folder
from roster.library import digest, fingerprint
from roster.moe.replacing import replace
from roster.moe.spreading import Spread, spread
from roster.processes import is_first
from roster.prompts import Rendering
from roster.routed.base import finding, load_base, load_tokenizer
from roster.saving import MANIFEST
from roster.train.fit import Settings, learn, per_process
from roster.train.plan import scratch_folder
from roster.train.texts import read_lessons

LENGTH = 512
Start = Literal["fresh", "dense"]


@dataclass(frozen=True)
class Blocks:
    """How a dense model becomes a mixture before it is trained; see `roster.moe.replace`.

    Attributes:
        recipe: of kind "moe".
        options: of the recipe.
        layers: which blocks, counted from 0; None for all.
        start: how the experts begin.
        tasks: names of the tasks, for recipes that route by task.
    """

    recipe: str
    options: Mapping[str, Any] | None = None
    layers: Sequence[int] | None = None
    start: Start = "dense"
    tasks: Sequence[str] = ()


def train_moe(
    source: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    blocks: Blocks | None = None,
    settings: Settings = Settings(),  # noqa: B008
    length: int = LENGTH,
    template: bool = True,
    how: Spread | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Trains a model with routed blocks and writes it as a folder that `roster.load` reads.

    Args:
        source: a dense model (a folder, a name on the hub, or "pocket"), or a folder with routed blocks.
        data: see `roster.train.texts.read_lessons`.
        out: the folder to write; an interrupted training leaves `OUT.training`, from which it is taken up again.
        blocks: what a dense model becomes; None for a routed folder, which is what it is.
        settings: of the training.
        length: tokens of a piece of text.
        template: False reads prompts as they stand, whatever chat template the tokenizer has.
        how: the model is spread over the processes of a run (`roster.moe.spreading`); None for one process.
        kwargs: for the dense model's `from_pretrained` (dtype, revision, ...); of a routed folder, `dtype` only.

    Returns:
        The training record.

    Raises:
        RosterError: anything that does not fit, before training starts.
    """
    out, data = Path(os.path.abspath(out)), Path(data)
    if out.exists() and any(out.iterdir()) and not (out / MANIFEST).exists():
        raise RosterError(f"{str(out)!r} is not empty and not a mixture; choose another folder")
    join(how)
    per_process(settings.batch_size)
    torch.manual_seed(settings.seed)
    model = _model(source, blocks, kwargs)
    tokenizer = model.roster.tokenizer
    if tokenizer is None:
        raise RosterError(f"there is no tokenizer beside {str(source)!r}, which training needs")
    rendering = Rendering(tokenizer, template)
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tasks = {name: index for index, name in enumerate(model.roster.tasks)} if model.roster.plan.routes_by_task else None
    lessons = read_lessons(data, rendering, length, limit, tasks)
    plan = {
        "blocks": None if blocks is None else asdict(blocks),
        "source": digest(fingerprint(model)),
        "chat template": rendering.digest,
        "data": hashlib.sha256(data.read_bytes()).hexdigest(),
        "length": length,
        "spread": how,
        "settings": {k: v for k, v in asdict(settings).items() if k not in ("progress", "save_every")},
    }
    if how is not None:
        if torch.cuda.is_available():
            model.to(torch.cuda.current_device())
        spread(model, how)
    with scratch_folder(out.with_name(out.name + ".training"), plan) as scratch:
        record = learn(model, lessons, rendering.pad_token_id, scratch, settings)
        model.save_pretrained(out, is_main_process=is_first())
    return {"lessons": len(lessons), **record}


def join(how: Spread | None) -> None:
    """Meets the other processes of a run that torchrun has started.

    Raises:
        RosterError: there are several and nothing says how the model is spread, or it shall be and there are none.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if how is None and started > 1:
        raise RosterError(f"{started} processes were started: say how the model is spread over them (--spread)")
    if how is None or distributed.is_initialized():
        return
    if "WORLD_SIZE" not in os.environ:
        raise RosterError("--spread is for the processes of a run: start it with torchrun --nproc-per-node N -m roster")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def _model(source: str | Path, blocks: Blocks | None, kwargs: dict[str, Any]) -> Any:
    """The routed model to train, with its tokenizer; RosterError where source and blocks do not go together."""
    if not (Path(source) / MANIFEST).is_file():
        if blocks is None:
            raise RosterError(f"{str(source)!r} is a dense model: name the recipe that its blocks become (--recipe)")
        model, name = load_base(source, **kwargs)
        model = replace(
            model,
            blocks.recipe,
            options=blocks.options,
            layers=blocks.layers,
            start=blocks.start,
            tasks=blocks.tasks,
        )
        model.roster.base_name, model.roster.tokenizer = name, load_tokenizer(source, **finding(kwargs))
        return model
    if kind_of(Path(source)) != "moe":
        raise RosterError(f"{str(source)!r} is a mixture of adapters, whose routers `roster build --data` trains")
    if blocks is not None:
        raise RosterError(f"{str(source)!r} has routed blocks already: leave --recipe out")
    return load_folder(Path(source), **kwargs)
