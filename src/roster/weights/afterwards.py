"""What `roster convert` and `roster compress` found out afterwards, in one JSON file and a page beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roster.files import read_object, write_whole
from roster.weights.page import Table, page, quality_table


@dataclass(frozen=True)
class Afterwards:
    """Of one run.

    Attributes:
        kind: "convert" or "compress", which names the files.
        title: what was done.
        models: what it was made of.
        sizes: bytes before and after.
        proof: figures of old against new on the same tokens, and `text` in words; empty where it was not asked for.
        quality: what `--eval` measured; empty where it was not asked for.
    """

    kind: str
    title: str
    models: tuple[str, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Adds to the JSON that the run left there, if it left one, and returns the page's place."""
        file = folder / f"{self.kind}.json"
        content = read_object(file) if file.is_file() else {}
        content |= {"title": self.title, "models": list(self.models), "sizes": dict(self.sizes)}
        content |= {name: dict(found) for name, found in (("proof", self.proof), ("quality", self.quality)) if found}
        write_whole(file, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        return write_whole(folder / f"{self.kind}.html", self.page())

    def page(self) -> bytes:
        """One file that needs nothing but itself."""
        verdict = [f"{self.proof['text'][0].upper()}{self.proof['text'][1:]}."] if self.proof else []
        tables = [quality_table(self.quality)] if self.quality else []
        rows = [[name, f"{size:,} bytes"] for name, size in self.sizes.items()]
        tables.append(Table("Sizes", "Of the tensors.", ["", "size"], rows))
        return page(self.title, f"made of {', '.join(self.models)}", verdict, tables)
