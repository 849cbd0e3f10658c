"""The set-up of a clean checkout says what it does; the commands themselves are stood in for by `true` and `false`."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")


def set_up(folder, pip):
    variables = [f"VENV={folder}", "PYTHON=true", f"PIP={pip}"]
    root = Path(__file__).parents[1]
    # Free of what a `make test` around this run hands down.
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *variables, f"{folder}/.installed"]
    return subprocess.run(command, cwd=root, env=alone, capture_output=True, text=True)


def test_set_up_prints_a_line_per_step_with_its_seconds(tmp_path):
    done = set_up(tmp_path, "true")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3, "nothing but the steps"
    for number, line in enumerate(lines, 1):
        assert re.fullmatch(rf"set-up {number}/3: .+ \.\.\. \d+ s", line)


def test_set_up_ends_at_the_step_that_fails(tmp_path):
    done = set_up(tmp_path, "false")
    assert done.returncode != 0
    assert "3/3" not in done.stdout
    assert not (tmp_path / ".installed").exists()
