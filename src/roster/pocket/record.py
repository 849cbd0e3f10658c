"""The record of a run of ``make``: a JSON file, complete after every note, so that a stopped run keeps its own."""

from __future__ import annotations

import datetime
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers", "accelerate")


def machine() -> dict[str, Any]:
    """The processor's name and cores, and the versions that the figures hold for."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Record:
    """Notes by section and name, kept in ``path``; an existing file is carried on.

    The file is read again before each note: one run may train while another measures.

    Args:
        path: of the JSON file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def section(self, name: str) -> dict[str, Any]:
        """The notes of one section so far."""
        content: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        notes: dict[str, Any] = content.get(name, {})
        return notes

    def note(self, section: str, name: str, value: Any) -> None:
        """Write ``value`` under ``section`` and ``name``, replacing what was there."""
        content: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        content["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        content["machine"] = machine()
        content.setdefault(section, {})[name] = value
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(_compact(content) + "\n")
        unfinished.replace(self.path)


def _compact(content: dict[str, Any]) -> str:
    """JSON with one line per note, which reads and compares better than one per number."""
    sections = []
    for section, value in content.items():
        if section in ("date", "machine"):
            sections.append(f"  {json.dumps(section)}: {json.dumps(value)}")
            continue
        notes = ",\n".join(f"    {json.dumps(name)}: {json.dumps(each)}" for name, each in value.items())
        sections.append(f"  {json.dumps(section)}: {{\n{notes}\n  }}")
    return "{\n" + ",\n".join(sections) + "\n}"
