"""A library is a folder of adapters of one base; anything else in its place is an error."""

import shutil

import pytest
import torch

import tiny
from library import saved
from roster import RosterError
from roster.library import Card, Library, LowRank, make_adapter, refresh_cards, write_adapter
from roster.library.config import CONFIG

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"


def adapter(name, modules=(Q,), rank=2, base="some/base", **card):
    out = {Q: 32, V: 16}
    updates = {each: LowRank(torch.randn(rank, 32), torch.randn(out[each], rank), 0.5) for each in modules}
    return make_adapter(name, updates, base, Card(task=name, **card))


@pytest.fixture
def folder(tmp_path):
    for each in (adapter("b", [V], 3), adapter("a"), adapter("0", [Q, V], 4)):
        write_adapter(tmp_path, each)
    return tmp_path


def test_mapping(folder):
    library = Library.read(folder)
    assert library.names == list(library) == ["0", "a", "b"]
    assert len(library) == 3
    assert library.module_names == [Q, V]
    assert [library.rank(V, name) for name in library.names] == [4, 0, 3]
    assert library["a"].card.task == "a"
    assert "a" in library
    assert "c" not in library
    assert library.get("a") is library["a"]


def test_an_unknown_name(folder):
    with pytest.raises(RosterError, match="no expert 'aa': did you mean 'a'"):
        Library.read(str(folder))["aa"]


def test_other_things_in_the_folder(folder):
    (folder / "README.md").write_text("mine")
    (folder / "notes").mkdir()
    assert Library.read(folder).names == ["0", "a", "b"]


def test_missing_and_empty(tmp_path):
    with pytest.raises(RosterError, match="there is no folder"):
        Library.read(tmp_path / "nowhere")
    with pytest.raises(RosterError, match="holds no adapters"):
        Library.read(tmp_path)
    with pytest.raises(RosterError, match="at least one"):
        Library({})


def test_one_adapter_is_no_library(folder):
    with pytest.raises(RosterError, match="is one adapter; give the folder above"):
        Library.read(folder / "a")


def test_weights_without_a_config(folder):
    (folder / "a" / CONFIG).unlink()
    with pytest.raises(RosterError, match=f"a' has an adapter_model.safetensors, but no {CONFIG}"):
        Library.read(folder)


def test_different_bases(folder):
    write_adapter(folder, adapter("c", base="other/base"))
    with pytest.raises(RosterError, match="'0' belongs to 'some/base', 'c' to 'other/base'"):
        Library.read(folder)


def test_different_hashes(folder):
    write_adapter(folder, adapter("c", base_hash="1" * 64))
    assert len(Library.read(folder)) == 4
    write_adapter(folder, adapter("d", base_hash="2" * 64))
    with pytest.raises(RosterError, match="'c' belongs to a base with the hash 111111111111, 'd' to one with 2222"):
        Library.read(folder)


def test_one_base_in_two_places(tmp_path):
    """A trailing slash is no difference; equal hashes outweigh different paths."""
    for name, base in (("a", "/models/base"), ("b", "/models/base/"), ("c", "")):
        write_adapter(tmp_path, adapter(name, base=base))
    assert len(Library.read(tmp_path)) == 3
    write_adapter(tmp_path, adapter("d", base="some/base"))
    with pytest.raises(RosterError, match="refresh_cards"):
        Library.read(tmp_path)
    refresh_cards(tmp_path, tiny.base())
    assert len(Library.read(tmp_path)) == 4


def test_check_holds_the_recorded_base_against_the_model(folder):
    refresh_cards(folder, tiny.base())
    library = Library.read(folder)
    library.check(tiny.base())
    library.check(tiny.base().to(torch.bfloat16))
    with pytest.raises(RosterError, match="expert '0' belongs to a base with the hash"):
        library.check(tiny.base(seed=1))


def test_a_quantised_model_is_checked_by_its_shapes(folder):
    refresh_cards(folder, tiny.base())
    model = tiny.base(seed=1)
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    Library.read(folder).check(model)
    model.model.layers = model.model.layers[:1]
    with pytest.raises(RosterError, match=r"layers\.1"):
        Library.read(folder).check(model)


def test_what_peft_saves_beside_the_default_adapter(tmp_path):
    """PEFT puts further adapters into sub-folders of the first one's folder."""
    model = saved.peft_model(tiny.base())
    model.save_pretrained(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "second")
    assert Library.read(tmp_path).names == ["default", "second"]
    shutil.copytree(tmp_path / "second", tmp_path / "default")
    with pytest.raises(RosterError, match="two adapters called 'default'"):
        Library.read(tmp_path)
