"""Copies of one tensor are read once, whatever stands between them, and come out as they would one by one."""

import torch
from safetensors.torch import load_file

from roster.weights import Copy, Operand, Output, make_plan, open_checkpoint, run
from roster.weights.plan import PAGE
from roster.weights.source import Checkpoint
from weights.conftest import tensors, write


def test_what_several_outputs_hold_is_read_once(tmp_path, monkeypatch):
    values = tensors("b", torch.bfloat16)
    source = open_checkpoint(write(tmp_path / "b", values))
    names = list(source.specs)
    outputs = [
        Output(f"{copy}.{name}", source.specs[name], (Operand(source, name),), Copy())
        for copy in "abc"
        for name in names
    ]
    read = []
    own = Checkpoint.fill
    monkeypatch.setattr(Checkpoint, "fill", lambda *given: read.append(given[2:]) or own(*given))
    told = []
    plan = make_plan(outputs, [source], max_shard=900_000)
    run(plan, tmp_path / "out", progress=lambda written, total, name: told.append((written, name)))
    assert len(read) == len(set(read)) > 0, "nothing is read twice"
    assert sorted(name for _, name in told) == sorted(each.name for each in outputs)
    assert told[-1][0] == plan.bytes_to_write
    found = {}
    for file in sorted((tmp_path / "out").glob("*.safetensors")):
        found |= load_file(file)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    for copy in "abc":
        for name in names:
            assert torch.equal(found[f"{copy}.{name}"], values[name])
    assert len(found) == 3 * len(names)


def test_copies_in_another_type_are_not_those_in_the_first(tmp_path):
    values = tensors("b")
    source = open_checkpoint(write(tmp_path / "b", values))
    name = "model.layers.0.mlp.down_proj.weight"
    spec = source.specs[name]
    half = type(spec)(torch.bfloat16, spec.shape)
    outputs = [
        Output(each, kind, (Operand(source, name),), Copy())
        for each, kind in (("a", spec), ("b", half), ("c", spec), ("d", half))
    ]
    run(make_plan(outputs, [source]), tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(found["a"], values[name])
    assert torch.equal(found["c"], values[name])
    assert torch.equal(found["b"], values[name].bfloat16())
    assert torch.equal(found["d"], values[name].bfloat16())


def test_large_tensors_begin_at_pages(tmp_path):
    """After a header of any length, and whatever small ones are among them; safetensors reads them as they are."""
    values = {f"t{i}": torch.full((4096 * i if i % 2 else 3 * i,), i, dtype=torch.bfloat16) for i in range(1, 8)}
    source = open_checkpoint(write(tmp_path / "b", values))
    outputs = [Output(name, spec, (Operand(source, name),), Copy()) for name, spec in source.specs.items()]
    run(make_plan(outputs, [source]), tmp_path / "out")
    places = open_checkpoint(tmp_path / "out").places
    assert all(place.offset % PAGE == 0 for place in places.values() if place.spec.nbytes >= PAGE)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(found[name], each) for name, each in values.items())
