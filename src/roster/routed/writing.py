"""Writing what belongs to the base of a routed model, as transformers itself would, and sending folders to a hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from torch import Tensor

from roster.routed.running import is_added
from roster.saving import MANIFEST

# Of every kind of mixture, so that one kind can take the other's place.
MIXTURE_ENTRIES = ("experts", "base", "router.safetensors", "model.safetensors", MANIFEST)


def write_base(
    model: Any, folder: Path, state: Mapping[str, Tensor] | None = None, max_shard_size: int | str = "5GB"
) -> None:
    """The base's own files, as transformers writes them: a copy of its class with none of our modules.

    Args:
        model: a routed model.
        folder: where to.
        state: tensors to write instead of the model's own, by name; ours among them are left out.
        max_shard_size: of one file.
    """
    own = model.state_dict() if state is None else state
    plain = {name: tensor for name, tensor in own.items() if not is_added(name)}
    base = type(model).base_class  # whatever stands before it in the model's class (ours, FSDP's) writes otherwise
    base.save_pretrained(model, folder, state_dict=plain, max_shard_size=max_shard_size)
    write_tokenizer(model, folder)


def write_tokenizer(model: Any, folder: Path) -> None:
    """The base's tokenizer, where one is known."""
    if hasattr(model.roster.tokenizer, "save_pretrained"):
        model.roster.tokenizer.save_pretrained(folder)


def upload(folder: Path, repo_id: str, *, private: bool | None = None, token: Any = None, **kwargs: Any) -> str:
    """Sends a folder to a repository of the Hugging Face hub, which is made when it is not there.

    Args:
        folder: what `save_pretrained` wrote.
        repo_id: of the repository.
        private: whether a new repository is.
        token: as huggingface_hub takes it.
        kwargs: for `HfApi.upload_folder` (commit_message, revision, create_pr, ...).

    Returns:
        The address of the commit.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **kwargs))
