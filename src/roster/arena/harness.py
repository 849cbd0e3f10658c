"""Tasks of EleutherAI's lm-evaluation-harness on a routed model, through the harness's Python API.

Generation is the harness's own: `generate` of a routed model decides on prompts as always. Log-likelihoods are computed
here, because the harness pads rows without saying where, and knows no prompt within a row: a router has to be told what
is asked and what is the answer. Perplexities of whole texts have no prompt; what stands before the text (an end-of-text
token) decides there, so that `auto` leaves them to the base.

Shape legend: B rows, S tokens, V vocabulary, C tokens of a continuation.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.errors import RosterError
from roster.prompts import Rendering, padded

Request = tuple[tuple[str, str], list[int], list[int]]
"""(texts, tokens of the context, tokens of the continuation)"""
_YAML = (".yaml", ".yml")


def scores(
    model: Any,
    rendering: Rendering,
    tasks: Sequence[str],
    *,
    batch_size: int = 8,
    limit: int | None = None,
    num_fewshot: int | None = None,
) -> dict[str, dict[str, float]]:
    """What the harness finds, by task and metric.

    Args:
        model: a routed model, or a plain causal one.
        rendering: how prompts become its tokens.
        tasks: names that the harness knows, or paths of its YAML files.
        batch_size: rows at a time.
        limit: items of each task, at most.
        num_fewshot: examples in front of each prompt; None: as the task says.

    Raises:
        RosterError: the harness is missing, no such task, or a recipe that routes by task.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise RosterError("lm_eval is missing: pip install 'roster-moe[lm-eval]'") from None
    mixture = getattr(model, "roster", None)
    if mixture is not None and mixture.plan.routes_by_task:
        raise RosterError(f"recipe {mixture.recipe!r} must be told tasks, which the harness does not know")
    files = [Path(name) for name in tasks if Path(name).suffix in _YAML]
    own = {str(file): _name_in(file) for file in files}
    manager = TaskManager(include_path=sorted({str(file.parent.resolve()) for file in files}) or None)
    wanted = [own.get(name, name) for name in tasks]
    unknown = next((name for name in wanted if not manager.match_tasks([name])), None)
    if unknown is not None:
        raise RosterError(f"the harness knows no task {unknown!r}: give a name of its own, or the path of a YAML file")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    found = lm_eval.simple_evaluate(
        model=_adapted(model, rendering, batch_size),
        tasks=wanted,
        task_manager=manager,
        limit=limit,
        num_fewshot=num_fewshot,
        apply_chat_template=rendering.templated,
        bootstrap_iters=0,
        log_samples=False,
    )
    return {task: _plain(metrics) for task, metrics in found["results"].items()}


def _name_in(file: Path) -> str:
    """The name that a task's file gives it."""
    if not file.is_file():
        raise RosterError(f"there is no task file {str(file)!r}")
    found = re.search(r"^(?:task|group):\s*[\"']?([^\s\"'#]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RosterError(f"{str(file)!r} names no task: it needs a line `task: NAME`")
    return found[1]


def _plain(metrics: Any) -> dict[str, float]:
    """Metrics alone: the harness adds names, sizes, and what it could not compute."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in metrics.items()
        if "," in name and "_stderr" not in name and isinstance(value, int | float)
    }


def _adapted(model: Any, rendering: Rendering, batch_size: int) -> Any:
    """The model as the harness calls it."""
    from lm_eval.models.huggingface import HFLM

    class Adapted(HFLM):  # type: ignore[misc]  # the harness is optional, and Any where it is missing
        def _loglikelihood_tokens(
            self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            told = loglikelihoods(self.model, requests, self.max_length, self.batch_size)
            for request, answer in zip(requests, told, strict=True):
                self.cache_hook.add_partial("loglikelihood", request[0], answer)
            return told

    return Adapted(pretrained=model, tokenizer=rendering.tokenizer, batch_size=batch_size, device=str(model.device))


@torch.inference_mode()
def loglikelihoods(model: Any, requests: Sequence[Request], most: int, batch_size: int) -> list[tuple[float, bool]]:
    """(log-probability, whether it is the greedy answer) of each continuation after its context.

    Args:
        model: a routed model, or a plain causal one.
        requests: of any lengths; contexts are cut at their beginning where a row would be longer than `most` tokens.
        most: of a row.
        batch_size: rows at a time.
    """
    found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
    order = sorted(range(len(requests)), key=lambda at: len(requests[at][1]) + len(requests[at][2]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = [(requests[at][1] + requests[at][2])[-(most + 1) : -1] for at in batch]
        told = [len(requests[at][2]) for at in batch]
        inputs = {name: each.to(model.device) for name, each in padded(rows, pad=0).items()}
        mask_BS = inputs["attention_mask"]
        known: dict[str, Any] = {}
        if hasattr(model, "roster"):
            # The last token of a row is not read, so a continuation has one token less in it than it has.
            behind_BS = mask_BS.flip(1).cumsum(1).flip(1)
            answer_B1 = torch.tensor(told, device=model.device)[:, None] - 1
            known["prompt_mask"] = mask_BS.bool() & (behind_BS > answer_B1)
        if "position_ids" in getattr(type(model), "input_names", inspect.signature(model.forward).parameters):
            known["position_ids"] = (mask_BS.cumsum(1) - 1).clamp_min(0)
        logits_BSV = model(**inputs, use_cache=False, **known).logits
        for at, count, logits_SV in zip(batch, told, logits_BSV, strict=True):
            found[at] = _of(logits_SV[-count:], requests[at][2])
    return found


def _of(logits_CV: Tensor, ids: Sequence[int]) -> tuple[float, bool]:
    ids_C = torch.tensor(ids[-len(logits_CV) :], device=logits_CV.device)
    logs_CV = F.log_softmax(logits_CV.float(), dim=1)
    return float(logs_CV.gather(1, ids_C[:, None]).sum()), bool((logs_CV.argmax(1) == ids_C).all())
