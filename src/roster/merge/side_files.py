"""What lies in a model's folder besides its weights: config, tokenizer, chat template; and whether they go together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roster.errors import RosterError
from roster.merge.config import MergeConfig
from roster.merge.opening import folder_of, open_model
from roster.weights import Source

_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
              "chat_template*")  # fmt: skip
_GENERATION = "generation_config.json"


def model_files(folder: Path) -> dict[str, bytes | Path]:
    """Tokenizer, chat template and generation settings of a folder, by name."""
    found = (each for pattern in (*_TOKENIZER, _GENERATION) for each in sorted(folder.glob(pattern)))
    return {each.name: each for each in found if each.is_file()}


def side_files(config: MergeConfig, models: Mapping[str, Source], layers: int) -> dict[str, bytes | Path]:
    """Files of the merged model by name.

    Args:
        config: the merge.
        models: what it merges, by name; the first is the base, or the first model.
        layers: how many the result has.
    """
    first = folder_of(next(iter(models.values())))
    if first is None:
        return {}
    tokens = folder_of(models.get(config.tokenizer) or open_model(config.tokenizer)) if config.tokenizer else first
    files = {name: file for name, file in model_files(first).items() if tokens == first or name == _GENERATION}
    if tokens != first:
        files |= {name: file for name, file in model_files(tokens or first).items() if name != _GENERATION}
    if (first / "config.json").is_file():
        files["config.json"] = _new_config(first / "config.json", config, layers)
    if config.chat_template not in (None, "auto"):
        files["chat_template.jinja"] = _template(str(config.chat_template))
    return files


def check_tokenizers(config: MergeConfig, models: Mapping[str, Source]) -> None:
    """Models whose tokenizers give the same number to different words cannot be merged row by row.

    Raises:
        RosterError: two vocabularies differ, and the config does not say whose to take.
    """
    if not config.tokenizer:
        check_vocabularies({name: folder_of(source) for name, source in models.items()})


def check_vocabularies(folders: Mapping[str, Path | None]) -> None:
    """Refuses models, by name and folder, whose tokenizers differ; one without `tokenizer.json` passes."""
    seen: tuple[str, bytes, Any] | None = None
    for name, folder in folders.items():
        file = folder / "tokenizer.json" if folder else None
        if file is None or not file.is_file():
            continue
        content = file.read_bytes()
        if seen is None:
            seen = (name, content, _vocabulary(content))
        elif content != seen[1] and _vocabulary(content) != seen[2]:
            raise RosterError(
                f"{name!r} and {seen[0]!r} have different vocabularies, so that row 1,000 of their embeddings means "
                "different words; if they agree where it matters, name the one to take (tokenizer_source)"
            )


def _vocabulary(content: bytes) -> Any:
    try:
        return json.loads(content)["model"]["vocab"]
    except (ValueError, KeyError, TypeError):
        return content


def _new_config(file: Path, config: MergeConfig, layers: int) -> bytes:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    dtype = config.out_dtype or config.dtype
    if dtype is not None:
        found["torch_dtype" if "torch_dtype" in found else "dtype"] = str(dtype).removeprefix("torch.")
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        old = found.get(name)
        if not isinstance(old, int) or not layers or config.slices[0].members[0].layers is None:
            continue
        chosen = [layer for part in config.slices for layer in range(*(part.members[0].layers or (0, 0)))]
        for key, value in found.items():
            if isinstance(value, list) and len(value) == old:  # one entry a layer, as in layer_types
                found[key] = [value[layer] for layer in chosen]
        found[name] = layers
    return (json.dumps(found, indent=2) + "\n").encode()


def _template(text: str) -> bytes:
    if "{" in text:
        return text.encode()
    if Path(text).is_file():
        return Path(text).read_bytes()
    raise RosterError(f"chat_template={text!r} is neither 'auto', a template, nor a file that holds one")
