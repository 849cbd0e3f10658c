"""What every test runs under: one thread, no network, nothing random that was not asked for."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch
import transformers

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
hypothesis.settings.register_profile("roster", deadline=None, derandomize=True, max_examples=8)
hypothesis.settings.load_profile("roster")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
