"""`python -m roster` and `python -m roster.cli` are the command `roster`."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["roster", "roster.cli"])
def test_module_is_the_command(module):
    shown = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("roster ")
