"""The command: what it says, and that a finished stage is left alone."""

from __future__ import annotations

import json

import pytest

from roster.pocket import make
from roster.pocket.record import Record


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        make.main(["--help"])
    assert "python -m roster.pocket.make --" in capsys.readouterr().out


def test_finished_stages_are_skipped(tmp_path, capsys):
    finished = tmp_path / "experts" / "sort"
    finished.mkdir(parents=True)
    make.main(["--out", str(tmp_path), "--only", "sort"])
    assert "is there already" in capsys.readouterr().out
    assert list(finished.iterdir()) == []


def test_a_record_is_carried_on(tmp_path):
    Record(tmp_path / "record.json").note("test", "base", {"sort": 0.25})
    Record(tmp_path / "record.json").note("test", "multitask", {"sort": 0.5})
    content = json.loads((tmp_path / "record.json").read_text())
    assert content["test"] == {"base": {"sort": 0.25}, "multitask": {"sort": 0.5}}
    assert content["machine"]["packages"]["torch"]
