"""Folders on disk: whatever happens while one is written, the old one or the new one is there."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from roster.errors import RosterError
from roster.saving import check_name, inside, recover, writing
from roster.tensors import StoredTensors, write_tensors

OLD = {"a": "old a", "b": "old b", "deep/c": "old c"}
NEW = {"a": "new a", "d": "new d"}
OWNED = ("a", "b", "d", "deep")


def write(folder, texts):
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def content(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_replaced_and_what_is_not_owned_goes_along(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with writing(folder, OWNED) as new:
        write(new, OLD)
    assert content(folder) == OLD
    write(folder, {"notes/mine": "kept", "state": "kept"})
    with writing(folder, OWNED) as new:
        write(new, NEW)
    assert content(folder) == {**NEW, "notes/mine": "kept", "state": "kept"}
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_what_was_there(error, tmp_path):
    folder = tmp_path / "folder"
    write(folder, OLD)

    def fail():
        with writing(folder, OWNED) as new:
            write(new, NEW)
            raise error

    with pytest.raises((RosterError, KeyboardInterrupt)) as raised:
        fail()
    if isinstance(error, OSError):
        assert raised.match(r"cannot write '.*folder': .*No space left on device; what was there is as it was")
    assert content(folder) == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


DRIVER = """
    import os, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[2])
    from test_saving_driver import NEW, OLD, OWNED, content, recover, write, writing

    root = Path(sys.argv[1])
    EVENTS = {"os.rename", "os.mkdir", "os.link", "os.remove", "os.rmdir", "open"}
    left = -1

    def count(event, arguments):
        global left
        if event in EVENTS and left >= 0:
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(count)
    outcomes = []
    for moment in range(1000):
        folder = root / str(moment) / "folder"
        write(folder, {**OLD, "state": "kept"})
        child = os.fork()
        if child == 0:
            left = moment
            with writing(folder, OWNED) as new:
                write(new, NEW)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        recover(folder)
        found = content(folder)
        assert found in ({**OLD, "state": "kept"}, {**NEW, "state": "kept"}), (moment, found)
        outcomes.append(found["a"])
        with writing(folder, OWNED) as new:
            write(new, NEW)
        assert content(folder) == {**NEW, "state": "kept"}, moment
        assert [path.name for path in folder.parent.iterdir()] == ["folder"], moment
        if status == 0:
            break
    assert status == 0 and "old a" in outcomes and outcomes[-1] == "new a"
    print(moment)
"""


def test_killed_at_any_moment_the_old_or_the_new_one_is_there(tmp_path):
    """A process is killed at its first, second, third ... call that touches the disk, until it gets through."""
    source = Path(__file__).read_text()
    parts = [source[source.index("OLD = {") : source.index("def test_a_folder_is")]]
    head = "from roster.saving import recover, writing\n"
    (tmp_path / "test_saving_driver.py").write_text(head + "\n".join(parts))
    (tmp_path / "driver.py").write_text(textwrap.dedent(DRIVER))
    run = subprocess.run(
        [sys.executable, tmp_path / "driver.py", tmp_path / "runs", tmp_path], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 10


def test_two_writers_are_told_of_each_other(tmp_path):
    folder = tmp_path / "folder"
    with writing(folder) as new:
        write(new, NEW)
        with pytest.raises(RosterError, match=r"another process is writing '.*folder'"), writing(folder):
            pass
    assert content(folder) == NEW


def test_a_link_is_written_through(tmp_path):
    write(tmp_path / "disk", OLD)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with writing(tmp_path / "link", OWNED) as new:
        write(new, NEW)
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "disk") == NEW


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RosterError, match="is a file"), writing(tmp_path / "file"):
        pass
    with pytest.raises(RosterError, match="mount point"), writing("/proc"):
        pass
    with pytest.raises(RosterError, match=r"cannot write '/proc/nothing'"), writing("/proc/nothing"):
        pass


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc", "a/b", "a\\b", "a\0b", "x" * 256])
def test_names_that_lead_elsewhere(name, tmp_path):
    with pytest.raises(RosterError, match="cannot be the name of a folder"):
        check_name(name)
    with pytest.raises(RosterError, match="follows no name out of its folder"):
        inside(tmp_path, name, "the manifest")


@pytest.mark.parametrize("name", ["a", "with space", "ünïcode", "a.b", "..."])
def test_names_that_do_not(name, tmp_path):
    assert inside(tmp_path, name, "the manifest") == tmp_path / name


def test_recovery_touches_nothing_where_all_is_well(tmp_path):
    write(tmp_path / "folder", OLD)
    recover(tmp_path / "folder")
    recover(tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


# ---- tensors


def tensors():
    generator = torch.Generator().manual_seed(0)
    floats = {
        str(d).removeprefix("torch."): torch.randn(5, 3, generator=generator).to(d)
        for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)
    }
    return {**floats, "ids": torch.arange(7), "mask": torch.tensor([True, False]), "none": torch.zeros(0, 4)}


@pytest.mark.parametrize("size", ["5GB", 100])
def test_tensors_are_read_as_safetensors_reads_them(size, tmp_path):
    state = tensors()
    write_tensors(state, tmp_path, max_shard_size=size)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (size == 100)
    theirs = {key: value for name in files for key, value in load_file(tmp_path / name).items()}
    stored = StoredTensors(tmp_path)
    assert stored.keys() == state.keys() == theirs.keys()
    for key, tensor in state.items():
        assert stored[key].dtype == tensor.dtype
        assert stored.shape(key) == list(tensor.shape)
        assert torch.equal(stored[key].view(torch.uint8), tensor.view(torch.uint8))
        assert torch.equal(theirs[key].view(torch.uint8), tensor.view(torch.uint8))


def test_tensors_that_share_memory_are_stored_once_and_parts_of_larger_ones_alone(tmp_path):
    whole = torch.arange(1000.0)
    write_tensors({"a": whole[:10], "b": whole[10:20], "c": torch.ones(3)}, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 1000
    assert torch.equal(StoredTensors(tmp_path)["b"], whole[10:20])
    tied = torch.ones(100)
    write_tensors({"x": tied, "y": tied}, tmp_path, "tied")
    assert len(StoredTensors(tmp_path, "tied")) == 1


def test_damaged_tensors_say_where(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(10)}, path)
    whole = path.read_bytes()
    for broken in (b"", whole[:4], whole[:20], whole[:-1], whole + b"x", b"\xff" * 8 + whole[8:], b"not tensors"):
        path.write_bytes(broken)
        with pytest.raises(RosterError, match=r"model\.safetensors' cannot be read"):
            StoredTensors(tmp_path)
    path.unlink()
    with pytest.raises(RosterError, match="cannot be read"):
        StoredTensors(tmp_path)


def test_an_index_leads_nowhere_else(tmp_path):
    (tmp_path / "inner").mkdir()
    save_file({"a": torch.ones(10)}, tmp_path / "outside.safetensors")
    index = {"weight_map": {"a": "../outside.safetensors"}}
    (tmp_path / "inner" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RosterError, match=r"follows no name out of its folder"):
        StoredTensors(tmp_path / "inner")
    (tmp_path / "inner" / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(RosterError, match=r"index\.json' cannot be read"):
        StoredTensors(tmp_path / "inner")
    assert os.listdir(tmp_path / "inner") == ["model.safetensors.index.json"]
