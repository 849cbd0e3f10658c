"""The real ground: SmolLM2-135M-Instruct, LoRA adapters of real skills, and the groups that test routers.

Where `roster.pocket` is a toy that ships whole, this is a pretrained chat model with adapters as users have them:
different ranks, targets, alphas and scalings, trained by PEFT through the model's chat template.

- ``base``: the model, fetched once and converted into the cache;
- ``skills``: natural-language skills, their items drawn from well-kept packages at run time, and their wordings;
- ``shapes``: the LoRA settings of each adapter, and how long it is trained;
- ``packing``: many prompts in one sequence behind one shared system prompt, which halves the training's cost;
- ``training``, ``answers``: one adapter, and exact answers;
- ``groups``: the test groups, as plain data that a comparison of routers reads;
- ``make``: the resumable command that makes ``adapters/`` and its ``record.json`` again.

Needs the extra ``smol`` for the packages that skills are drawn from.
"""

from __future__ import annotations

from pathlib import Path

ADAPTERS = Path(__file__).parent / "adapters"
BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""What the adapters call their base."""


def adapters_path() -> Path:
    """The folder that holds one PEFT adapter folder per skill."""
    return ADAPTERS
