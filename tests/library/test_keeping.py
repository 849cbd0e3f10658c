"""A folder of adapters as a thing that is kept: nothing unsound comes in, and no version is lost."""

import json
import threading

import pytest
import torch

import tiny
from library import saved
from roster import RosterError
from roster.library import Library, hub, read_adapter
from roster.library.keeping import VERSIONS, add, path_of, remove, versions
from roster.shelf.card import CARD
from roster.shelf.folders import CONFIG, WEIGHTS


@pytest.fixture
def sources(tmp_path):
    """Two adapters "a" and "b" of one base, and another "a" with other weights."""
    for folder, scale in (("one", 1.0), ("two", 2.0)):
        tiny.library(tiny.base(), 2, folder=tmp_path / folder, scales=[scale, scale])
    return tmp_path


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_add_copies_what_belongs_to_an_adapter(sources, tmp_path):
    source, shelf = sources / "one" / "expert 0", tmp_path / "shelf"
    for name in ("optimizer.pt", "tokenizer.json", "trainer_state.json"):
        (source / name).write_text("{}")
    (source / CARD).unlink()
    place = add(shelf, source)
    assert place == shelf / "expert 0"
    assert {path.name for path in place.iterdir()} >= {CONFIG, WEIGHTS, CARD, "tokenizer.json"}
    assert not {"optimizer.pt", "trainer_state.json"} & {path.name for path in place.iterdir()}
    assert read_adapter(place).weights_hash == read_adapter(source).weights_hash
    assert json.loads((place / CARD).read_text())["weights_hash"] == read_adapter(source).weights_hash
    add(shelf, sources / "one" / "expert 1", name="other")
    assert Library.read(shelf).names == ["expert 0", "other"]


def test_a_link_points_at_the_adapter(sources, tmp_path):
    source, shelf = sources / "one" / "expert 0", tmp_path / "shelf"
    place = add(shelf, source, link=True)
    assert place.is_symlink()
    assert place.resolve() == source.resolve()
    remove(shelf, "expert 0")
    assert not place.is_symlink()
    assert (source / WEIGHTS).is_file()


def test_versions_are_kept_apart_by_hash(sources, tmp_path):
    shelf = tmp_path / "shelf"
    first, second = (sources / each / "expert 0" for each in ("one", "two"))
    add(shelf, first)
    with pytest.raises(RosterError, match="with the same weights"):
        add(shelf, first)
    with pytest.raises(RosterError, match="--replace puts that version away"):
        add(shelf, second)
    old, new = read_adapter(first).weights_hash, read_adapter(second).weights_hash
    add(shelf, second, replace=True)
    assert read_adapter(shelf / "expert 0").weights_hash == new
    assert versions(shelf) == {"expert 0": [shelf / VERSIONS / "expert 0" / old[:12]]}
    assert read_adapter(path_of(shelf, f"expert 0@{old[:6]}")).weights_hash == old
    assert Library.read(shelf).names == ["expert 0"]
    # Back again: the newer one is put away, and the older one is still there.
    add(shelf, path_of(shelf, f"expert 0@{old[:6]}"), name="expert 0", replace=True)
    assert read_adapter(shelf / "expert 0").weights_hash == old
    assert {path.name for path in versions(shelf)["expert 0"]} == {old[:12], new[:12]}
    remove(shelf, f"expert 0@{new[:12]}")
    assert (shelf / VERSIONS / "expert 0").is_dir()
    remove(shelf, f"expert 0@{old[:12]}")
    assert not (shelf / VERSIONS / "expert 0").exists()
    assert versions(shelf) == {}
    assert Library.read(shelf).names == ["expert 0"]


def test_what_is_refused_leaves_the_folder_as_it_was(sources, tmp_path):
    shelf, source = tmp_path / "shelf", sources / "one" / "expert 0"
    add(shelf, source)
    before = files(shelf)
    saved.edit_tensors(sources / "one" / "expert 1", lambda t: t.update({k: v * torch.nan for k, v in t.items()}))
    with pytest.raises(RosterError, match="not finite"):
        add(shelf, sources / "one" / "expert 1")
    saved.edit_config(sources / "two" / "expert 1", base_model_name_or_path="another/base")
    (sources / "two" / "expert 1" / CARD).unlink()
    with pytest.raises(RosterError, match="adapters of different bases"):
        add(shelf, sources / "two" / "expert 1")
    for name in ("../out", ".hidden", "a/b", "a@b", "default", ""):
        with pytest.raises(RosterError):
            add(shelf, source, name=name or ".")
    (shelf / "notes").mkdir()
    with pytest.raises(RosterError, match="not an adapter"):
        add(shelf, source, name="notes", replace=True)
    assert files(shelf) == before
    with pytest.raises(RosterError, match="did you mean 'expert 0'"):
        remove(shelf, "expert O")


def test_the_experts_of_a_mixture_are_its_own(sources, tmp_path):
    (tmp_path / "mixture").mkdir()
    (tmp_path / "mixture" / "roster.json").write_text("{}")
    for act in (
        lambda: add(tmp_path / "mixture" / "experts", sources / "one" / "expert 0"),
        lambda: remove(tmp_path / "mixture" / "experts", "expert 0"),
    ):
        with pytest.raises(RosterError, match="belongs to the mixture"):
            act()


def test_several_at_once(sources, tmp_path):
    """Each waits for the other; both adapters are there, whole."""
    shelf, failed = tmp_path / "shelf", []

    def put(name):
        try:
            add(shelf, sources / "one" / name)
        except RosterError as error:
            failed.append(error)

    threads = [threading.Thread(target=put, args=(f"expert {number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert Library.read(shelf).names == ["expert 0", "expert 1"]


def test_by_name_on_the_hub(sources, tmp_path, monkeypatch):
    """What is asked of the hub: the adapter's files only, at the revision wanted."""
    asked = []

    def snapshot(repo, revision=None, allow_patterns=None):
        asked.append((repo, revision, allow_patterns))
        return str(sources / "one" / "expert 0")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert hub.names_hub("someone/adapter@v1")
    assert hub.names_hub("hf:someone/adapter")
    assert not hub.names_hub("adapters")
    assert not hub.names_hub("./someone/adapter")
    assert hub.fetch("hf:someone/adapter@v1") == (sources / "one" / "expert 0", "adapter")
    ((repo, revision, patterns),) = asked
    assert (repo, revision) == ("someone/adapter", "v1")
    assert CONFIG in patterns
    assert WEIGHTS in patterns
    assert not [each for each in patterns if each.endswith((".bin", ".pt")) or "*" in each]


def test_a_hub_that_does_not_answer(monkeypatch):
    def snapshot(*args, **kwargs):
        raise OSError("no connection\nmore")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    with pytest.raises(RosterError, match=r"cannot be fetched from the hub: no connection$"):
        hub.fetch("someone/adapter")
