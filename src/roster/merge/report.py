"""What a merge tells afterwards: `merge.json` and `merge.html` beside the weights.

Figures are gathered while tensors are written (`roster.weights.figures`), so that nothing is read twice. Tensors are
grouped by the models they are made of, which are the same for all of them unless a config has several slices. Nothing
in the files depends on when or how often the run was started.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from roster.errors import RosterError
from roster.files import read_object, write_whole
from roster.merge.config import MergeConfig
from roster.merge.methods import find_method
from roster.merge.names import in_layer, layer_of
from roster.weights import Output, Plan
from roster.weights.figures import Figures, whole
from roster.weights.page import NONE, RESULT, Table, cosine, number, page, quality_table, share

REPORT, PAGE = "merge.json", "merge.html"


class Report:
    """Of one run: `watch` and `files` are what `roster.weights.run` takes as `watch` and `report`."""

    def __init__(self, config: MergeConfig, plan: Plan) -> None:
        self._config, self._plan = config, plan
        self._method = find_method(config.method)
        self._bases = {each for each in (config.base_model, *(part.base_model for part in config.slices)) if each}

    def watch(self, output: Output) -> Figures | None:
        """None for what is copied."""
        models = self._models(output)
        return None if output.kernel.raw or not models else Figures(output, self._based(output), len(models))

    def of_differences(self) -> list[Output]:
        """Outputs made of differences between models and a base that all of them share, with these operands alone."""
        if self._method.base == "each":
            return []
        found = []
        for output in self._plan.outputs:
            models = self._models(output)
            if models and not output.kernel.raw and self._based(output):
                found.append(replace(output, operands=output.operands[: len(models)]))
        return found

    def files(self, figures: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
        """Both files, from the figures by tensor."""
        content = self._content(figures)
        return {REPORT: _dumped(content), PAGE: merge_page(content)}

    def _models(self, output: Output) -> tuple[str, ...]:
        """The names of those operands that are models; what was learned from data comes after them."""
        named = {str(Path(each)) for each in self._config.models}
        return tuple(each.source.name for each in output.operands if str(Path(each.source.name)) in named)

    def _based(self, output: Output) -> bool:
        if self._method.base == "each":
            return True
        return self._method.base != "member" and output.operands[0].source.name in self._bases

    def _content(self, figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        parts: dict[tuple[str | None, tuple[str, ...]], dict[str, dict[str, Any]]] = {}
        sizes = {output.key: output.spec.numel for output in self._plan.outputs}
        copied = []
        for output in self._plan.outputs:
            found = figures.get(output.key, {})
            if "norms" not in found:
                copied.append(output.key)
                continue
            names = self._models(output)
            key = (names[0], names[1:]) if self._based(output) else (None, names)
            parts.setdefault(key, {})[output.key] = {"elements": sizes[output.key], **found}
        return {
            "method": self._method.slug,
            "title": self._method.title,
            "source": self._method.source,
            "config": _settings(self._config),
            "bytes": self._plan.bytes_to_write,
            "copied": copied,
            "unused": [list(each) for each in self._plan.unused],
            "parts": [
                {"base": base, "models": list(models), "whole": _whole(tensors), "tensors": tensors}
                for (base, models), tensors in parts.items()
            ],
        }


def add_quality(folder: Path, found: Mapping[str, Any]) -> None:
    """Writes what models answer (see `roster.arena.checkpoints`) into the files of a finished merge."""
    content = read_object(folder / REPORT)
    if "parts" not in content:
        raise RosterError(f"{str(folder / REPORT)!r} is no merge's report")
    content["quality"] = dict(found)
    write_whole(folder / REPORT, _dumped(content))
    write_whole(folder / PAGE, merge_page(content))


def merge_page(content: Mapping[str, Any]) -> bytes:
    """The page of a report."""
    tables = [quality_table(content["quality"])] if "quality" in content else []
    for part in content["parts"]:
        tables += [_models(part), _cosines(part), _kinds(part), _tensors(part)]
    count = sum(len(part["tensors"]) for part in content["parts"])
    meta = f"{content['source']} · {count} tensors merged, {len(content['copied'])} copied · {content['bytes']:,} bytes"
    return page(f"Merged by {content['title']}", meta, _verdict(content), tables)


def _settings(config: MergeConfig) -> dict[str, Any]:
    told = asdict(config)
    return {name: str(value) if name.endswith("dtype") and value is not None else value for name, value in told.items()}


def _dumped(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _whole(tensors: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return whole(list(tensors.values()), [each["elements"] for each in tensors.values()])


def _verdict(content: Mapping[str, Any]) -> list[str]:
    said = []
    for part in content["parts"]:
        every, models = part["whole"], part["models"]
        into = f"{len(models)} models" if len(models) > 1 else "one model"
        if part["base"] is None:
            said.append(f"{into} became one; the farthest is {max(every['norms']):.4g} away from it (Euclidean norm).")
        elif not models:
            said.append(
                f"The result is {every['norm']:.4g} away from {part['base']} (Euclidean norm); "
                f"{share(every['changed'][-1])} of its elements are not the base's."
            )
        else:
            longest = max(every["norms"])
            times = f"{every['norm'] / longest:.2f} times as long as" if longest else "as long as"
            said.append(
                f"The result is {every['norm']:.4g} away from {part['base']} (Euclidean norm): {times} the longest of "
                f"the differences of {into}; {share(every['changed'][-1])} of its elements are not the base's."
            )
        if len(models) > 1:
            what = "weights" if part["base"] is None else "differences to the base"
            said.append(f"In {share(every['conflicts'])} of the elements the signs of the models' {what} disagree.")
    quality = content.get("quality")
    if quality is not None:
        models = quality["models"]
        best = min((name for name in models if name != RESULT), key=lambda name: models[name]["perplexity"])
        said.insert(
            0,
            f"Perplexity {models[RESULT]['perplexity']:.4g}; the best of the inputs, {best}, has "
            f"{models[best]['perplexity']:.4g}.",
        )
    return said


def _models(part: Mapping[str, Any]) -> Table:
    every = part["whole"]
    if part["base"] is None:
        rows = [[name, number(norm)] for name, norm in zip(part["models"], every["norms"], strict=True)]
        return Table("Models", "How far each is from the result.", ["model", "norm of the difference"], rows)
    kept = every.get("kept") or [None] * len(part["models"])
    changed = every["changed"]
    rows = [
        [name, number(norm), share(changed[i]), share(kept[i]), cosine(every["toward"][i])]
        for i, (name, norm) in enumerate(zip(part["models"], every["norms"], strict=True))
    ]
    rows.append([RESULT, number(every["norm"]), share(changed[-1]), NONE, NONE])
    columns = ["model", "norm of the difference", "changed", "kept of these", "cosine to the result's"]
    about = (
        f"Differences to {part['base']}, over all tensors. Changed: elements that differ from the base. Kept: how many "
        "of these the method let through, where it thins them out."
    )
    return Table("Models", about, columns, rows)


def _cosines(part: Mapping[str, Any]) -> Table:
    found = part["whole"].get("cosines")
    if found is None or len(part["models"]) < 2:
        return Table("", "", [], [])
    rows = [[name, *map(cosine, found[i])] for i, name in enumerate(part["models"])]
    numbered = [str(i + 1) for i in range(len(rows))]
    rows = [[f"{i + 1}. {row[0]}", *row[1:]] for i, row in enumerate(rows)]
    about = "Near 0: the models changed different things; near 1: the same; below 0: against each other."
    return Table("Cosines between the differences", about, ["model", *numbered], rows)


def _kinds(part: Mapping[str, Any]) -> Table:
    kinds: dict[str, dict[str, dict[str, Any]]] = {}
    for name, each in part["tensors"].items():
        layered = layer_of(name) is not None
        kinds.setdefault(in_layer(name, 0).replace(".0.", ".*.", 1) if layered else name, {})[name] = each
    rows = [[kind, str(len(found)), *_cells(_whole(found), len(part["models"]))] for kind, found in kinds.items()]
    return Table("By kind of tensor", _about(part), ["tensor", "count", *_columns(part)], rows)


def _tensors(part: Mapping[str, Any]) -> Table:
    rows = [[name, *_cells(each, len(part["models"]))] for name, each in part["tensors"].items()]
    return Table("Every tensor", _about(part), ["tensor", *_columns(part)], rows, folded=True)


def _about(part: Mapping[str, Any]) -> str:
    if not part["models"]:
        return f"Norms of the result's difference to {part['base']}."
    listed = "; ".join(f"{number}. {name}" for number, name in enumerate(part["models"], 1))
    return f"Norms of each model's difference to {part['base'] or 'the result'} ({listed})."


def _columns(part: Mapping[str, Any]) -> list[str]:
    norms = [f"norm {number}" for number in range(1, len(part["models"]) + 1)]
    more = [] if part["base"] is None else ["result's norm"]
    return [*norms, *more, "signs conflict", "lowest cosine", "kept"]


def _cells(figures: Mapping[str, Any], models: int) -> list[str]:
    made = [number(figures["norm"])] if "norm" in figures else []
    cosines = figures.get("cosines") or []
    pairs = [cosines[i][j] for i in range(len(cosines)) for j in range(i) if cosines[i][j] is not None]
    kept: Sequence[float | None] = figures.get("kept") or []
    told = [each for each in kept if each is not None]
    return [
        *map(number, figures["norms"]),
        *made,
        share(figures["conflicts"]) if models > 1 else NONE,
        cosine(min(pairs, default=None)),
        share(sum(told) / len(told) if told else None),
    ]
