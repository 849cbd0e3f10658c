"""Pocket models: a three-million-parameter base, a LoRA expert per skill, and the skills they are measured on.

Everything is small enough to ship and to train on one core, so that the demo, the tests and the examples of the guide
run on real models without a download.

- ``skills``: the suite: held-in, unseen and composed text tasks with checkable answers;
- ``models/base``: a Llama that copies and follows the format but lacks the skills;
- ``models/experts/<skill>``: PEFT LoRA adapters, each trained on one skill only, with a card;
- ``models/multitask``: one LoRA of the experts' total size, trained on all skills: the baseline to beat;
- ``models/routers/<recipe>``: routers trained over the finished experts; PHATGOOSE's gates lie beside each expert;
- ``models/record.json``: how they were made and what they scored;
- ``make``: the command that makes all of it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MODELS = Path(__file__).parent / "models"
BASE_NAME = "roster/pocket-base"
"""What the adapters call their base."""
ROUTERS = ("x-lora", "mov-molora", "milora-prompt-routed", "polytropon", "smear")
"""Recipes whose router is trained for the pocket experts; how, is in ``routers``."""


def base_path() -> Path:
    """The folder of the base model and its tokenizer."""
    return MODELS / "base"


def experts_path() -> Path:
    """The folder that holds one PEFT adapter folder per held-in skill."""
    return MODELS / "experts"


def multitask_path() -> Path:
    """The folder of the one adapter trained on all held-in skills."""
    return MODELS / "multitask"


def routers_path() -> Path:
    """The folder of routers trained for the experts."""
    return MODELS / "routers"


def load_base() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The base in float32, ready for evaluation, and its tokenizer (which pads on the left)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base_path(), dtype=torch.float32).eval()
    return model, cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(base_path()))
