"""An index says what the folder says, at any time, for several processes; and torch is not needed for it."""

import os
import sqlite3
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from roster import RosterError, pocket
from roster.library import Library, find
from roster.shelf.contents import check_one_base
from roster.shelf.folders import WEIGHTS
from roster.shelf.index import INDEX, Index
from shelf.made import adapter


@pytest.fixture
def folder(tmp_path):
    for name in ("reverse", "sort", "upper"):
        adapter(tmp_path, name, description=f"To {name} a text", examples=[f"{name}: abc"])
    return tmp_path


def names(index):
    return [each.name for each in index.contents]


def test_headers_say_what_reading_says():
    """Of the adapters that come with roster, against the adapters as they are read."""
    index, library = Index(pocket.experts_path(), 1 << 30), Library.read(pocket.experts_path())
    assert names(index) == library.names
    for told, whole in zip(index.contents, library.values(), strict=True):
        updates = whole.modules.values()
        assert told.ranks == tuple(sorted({each.A_RD.shape[0] for each in updates}))
        assert told.scales == pytest.approx(sorted({each.scale for each in updates}))
        assert told.modules == len(updates)
        assert told.parameters == sum(each.A_RD.numel() + each.B_OR.numel() for each in updates)
        assert (told.task, told.weights_hash) == (whole.card.task, whole.weights_hash)
        assert (told.kind, told.examples, told.problem) == ("LORA", len(whole.card.examples), "")
    assert not (pocket.experts_path() / INDEX).exists()


def test_scales_follow_patterns(tmp_path):
    config = {"alpha_pattern": {"1.self_attn.q_proj": 64}, "use_rslora": True, "lora_alpha": 6}
    adapter(tmp_path, "one", layers=2, rank=4, config=config)
    scales = sorted(update.scale for update in Library.read(tmp_path)["one"].modules.values())
    (told,) = Index(tmp_path).contents
    assert scales == pytest.approx([3.0, 32.0])
    assert told.scales == pytest.approx(scales)
    adapter(tmp_path, "two", config={"lora_alpha": "much"})
    assert "no scale" in Index(tmp_path).contents[1].problem


def test_search_is_that_of_the_library():
    index, library = Index(pocket.experts_path(), 1 << 30), Library.read(pocket.experts_path())
    assert index.search("write it backwards") == find(library, "write it backwards")
    assert index.search("write it backwards")[0][0] == "reverse"
    assert len(index.search("text", 2)) == 2
    with pytest.raises(RosterError, match="at least 1, not 0"):
        index.search("text", 0)


def test_a_small_folder_stays_as_it_is(folder):
    assert names(Index(folder)) == ["reverse", "sort", "upper"]
    assert not (folder / INDEX).exists()


def test_only_what_changed_is_read_again(folder, monkeypatch):
    before = Index(folder, 1).contents
    read = []
    from roster.shelf import index as module

    real = module.read_contents
    monkeypatch.setattr(module, "read_contents", lambda path, name: read.append(name) or real(path, name))
    assert Index(folder, 1).contents == before
    assert read == []
    adapter(folder, "twice", rank=3)
    (folder / "sort" / "card.json").write_text('{"task": "sorting"}')
    for each in (folder / "upper").iterdir():
        each.unlink()
    (folder / "upper").rmdir()
    after = Index(folder, 1)
    assert sorted(read) == ["sort", "twice"]
    assert names(after) == ["reverse", "sort", "twice"]
    assert after.contents[1].task == "sorting"
    assert after.contents[2].ranks == (3,)
    assert after.search("sorting")[0][0] == "sort"
    assert [name for name, _ in after.search("upper", 9)] != ["upper"]


@pytest.mark.parametrize("spoil", ["delete", "overwrite", "truncate", "older"])
def test_the_index_may_go_at_any_time(folder, spoil):
    before = Index(folder, 1).contents
    file = folder / INDEX
    if spoil == "delete":
        file.unlink()
    elif spoil == "overwrite":
        file.write_bytes(b"no database at all" * 100)
    elif spoil == "truncate":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        with sqlite3.connect(file) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
    assert Index(folder, 1).contents == before
    assert Index(folder, 1).contents == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(folder):
    folder.chmod(0o500)
    try:
        assert names(Index(folder, 1)) == ["reverse", "sort", "upper"]
    finally:
        folder.chmod(0o700)


def test_one_that_cannot_be_used_is_told_among_the_others(folder):
    file = folder / "sort" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-4])
    told = {each.name: each.problem for each in Index(folder, 1).contents}
    assert "truncated" in told.pop("sort")
    assert set(told.values()) == {""}


def test_bases_that_differ(folder):
    adapter(folder, "other", config={"base_model_name_or_path": "another/base"})
    with pytest.raises(RosterError, match="'other' belongs to 'another/base', 'reverse' to 'a/base'"):
        check_one_base(Index(folder).contents)


def test_vectors_are_remembered_until_the_adapter_changes(folder):
    one, other = np.arange(3, dtype=np.float32), np.ones(3, dtype=np.float32)
    assert Index(folder).vectors("a key") == {}
    Index(folder).remember("a key", {"reverse": one, "sort": other})
    assert Index(folder).vectors("another key") == {}
    found = Index(folder, 1).vectors("a key")
    np.testing.assert_array_equal(found["reverse"], one)
    (folder / "sort" / "card.json").write_text('{"task": "sort", "examples": ["new"]}')
    assert Index(folder, 1).vectors("a key").keys() == {"reverse"}


_READS = """
import sys
from roster.shelf.index import Index
for _ in range(5):
    found = [each.name for each in Index(sys.argv[1], 1).contents]
print(len(found), sorted({'torch', 'transformers', 'peft', 'sklearn'} & sys.modules.keys()))
"""


def test_two_processes_at_once_and_no_torch(tmp_path):
    for number in range(80):
        adapter(tmp_path, f"expert {number}")
    command = [sys.executable, "-c", _READS, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [each.communicate()[0] for each in started] == ["80 []\n"] * 2
    with sqlite3.connect(tmp_path / INDEX) as db:
        assert db.execute("SELECT count(*) FROM adapters").fetchone() == (80,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_contents_survive_the_index_whole(folder):
    fresh, kept = Index(folder, 1 << 30).contents, Index(folder, 1) and Index(folder, 1).contents
    assert [asdict(each) for each in fresh] == [asdict(each) for each in kept]
