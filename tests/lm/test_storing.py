"""Folders of records and of policies: whatever happens while one is written, the old one or the new one can be read."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lm import tiny
from roster.errors import RosterError
from roster.lm.decide import Weights
from roster.lm.estimate import Mean
from roster.lm.offline import OfflinePolicy, load_policy
from roster.lm.storing import find_records, load_records, save_records

TESTS = Path(__file__).parents[1]


def save(kind, nth, folder):
    """The nth version of a folder of that kind."""
    made = tiny.records(10 + nth)
    if kind == "records":
        return save_records(made, folder)
    return OfflinePolicy(str(nth), Mean().fit(made), Weights()).save(folder)


def version(kind, folder):
    return len(load_records(folder)) - 10 if kind == "records" else int(load_policy(folder).name)


KINDS = ("records", "policy")

DRIVER = """
    import os, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from lm.test_storing import KINDS, save, version

    root = Path(sys.argv[1])
    EVENTS = {"os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir", "open"}
    left = -1

    def count(event, arguments):
        global left
        if event in EVENTS and left >= 0 and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(count)
    for kind in KINDS:
        met = []
        for moment in range(1000):
            folder = root / kind / str(moment) / "folder"
            save(kind, 0, folder)
            (folder / "notes").write_text("kept")
            child = os.fork()
            if child == 0:
                left = moment
                save(kind, 1, folder)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            met.append(version(kind, folder))
            assert (folder / "notes").read_text() == "kept", moment
            save(kind, 2, folder)
            assert version(kind, folder) == 2, moment
            assert [path.name for path in folder.parent.iterdir()] == ["folder"], moment
            if status == 0:
                break
        assert status == 0 and met[0] == 0 and met[-1] == 1 and len(met) > 8, met
        print(kind, len(met))
"""


def test_killed_at_any_moment_the_old_or_the_new_one_is_there(tmp_path):
    """A process is killed at its first, second, third ... call that touches the disk, until it gets through."""
    (tmp_path / "driver.py").write_text(textwrap.dedent(DRIVER))
    command = [sys.executable, tmp_path / "driver.py", tmp_path / "runs", TESTS]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()] == [*KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_what_fails_leaves_what_was_there(kind, tmp_path, monkeypatch):
    save(kind, 0, tmp_path / "folder")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RosterError, match=r"cannot write '.*folder': .*No space left on device; what was there is as"):
        save(kind, 1, tmp_path / "folder")
    monkeypatch.undo()
    assert version(kind, tmp_path / "folder") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_one_kind_is_not_taken_for_another(tmp_path):
    save("policy", 0, tmp_path / "policy")
    with pytest.raises(RosterError, match="kind: Input should be 'lm-records'"):
        find_records(str(tmp_path / "policy"))
    save("records", 0, tmp_path / "records")
    with pytest.raises(RosterError, match="kind: Input should be 'lm-policy'"):
        load_policy(tmp_path / "records")


@pytest.mark.parametrize(("kind", "name"), [("records", "records.json"), ("policy", "policy.json")])
def test_folders_of_version_0_1_still_load(kind, name, tmp_path):
    folder = save(kind, 4, tmp_path / "folder")
    about = json.loads((folder / "roster.json").read_text())
    del about["kind"]
    (folder / "roster.json").unlink()
    (folder / name).write_text(json.dumps({**about, "format": f"roster-lm-{kind}/1"}))
    assert version(kind, folder) == 4
    save(kind, 5, folder)
    assert version(kind, folder) == 5
    assert not (folder / name).exists()
    (folder / "roster.json").unlink()
    (folder / name).write_text("[1]")
    with pytest.raises(RosterError, match=rf"{name}' cannot be read"):
        version(kind, folder)


def test_what_a_killed_process_moved_aside_is_found_by_its_name(tmp_path):
    save("records", 3, tmp_path / "folder")
    (tmp_path / "folder").rename(tmp_path / ".folder.old")
    assert len(find_records(str(tmp_path / "folder"))) == 13


def test_texts_that_utf_8_cannot_say_are_kept(tmp_path):
    prompts = ("lone \ud800 surrogate", "two\u2028lines\nand\rmore", *tiny.records(3).prompts[2:])
    made = save_records(tiny.records(3, prompts=prompts), tmp_path / "records")
    assert load_records(made).prompts == prompts
