"""What every test runs under: one thread, no network, nothing random that was not asked for."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch
import transformers

BESIDE = Path(__file__).parents[2] / "shared" / "data"
if BESIDE.is_dir():  # Texts of others are not part of the repository; here they may lie beside it.
    os.environ.setdefault("ROSTER_DATA", str(BESIDE))
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
hypothesis.settings.register_profile("roster", deadline=None, derandomize=True, max_examples=8)
hypothesis.settings.load_profile("roster")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
