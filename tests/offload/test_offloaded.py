"""A mixture with some of its experts in memory gives the whole model's answers, bit by bit."""

import gc
import json
import os
import shutil
import weakref

import pytest
import torch

import roster
from moe.mixtures import CAUSAL, mixture
from offload.holding import budget, prompts, saved, whole
from roster.errors import RosterError
from roster.offload import load

STORED = [(name, "bfloat16", False) for name in CAUSAL]
STORED += [(name, "float32", fused) for name in ("mixtral", "deepseek_v3", "gpt_oss") for fused in (False, True)]


def same(model, reference, inputs):
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, reference(**inputs).logits)


@pytest.mark.parametrize(("name", "dtype", "fused"), STORED)
def test_bits_of_the_whole_model(name, dtype, fused, tmp_path):
    """Batches with padding, `generate` with a KV cache; half of the experts in memory."""
    cls = saved(tmp_path, name, dtype, fused)
    reference = whole(cls, tmp_path)
    model = roster.load(tmp_path, max_memory=budget(tmp_path, 8))
    assert isinstance(model, cls)
    assert model.offload.run.residency.shares.total == 8
    assert not any(".experts.gate_up_proj" in each and p.dim() == 3 for each, p in model.named_parameters())
    same(model, reference, prompts())
    wanted = {**prompts(), "max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**wanted), reference.generate(**wanted))
    total = model.offload.statistics.total
    assert total.misses > 0
    assert total.hits > 0
    assert total.nbytes > 0
    model.offload.close()


@pytest.mark.parametrize("way", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_every_way_to_run_experts_and_every_budget(way, name, tmp_path):
    cls = saved(tmp_path, name)
    reference = whole(cls, tmp_path, experts_implementation=way)
    for experts in (2, 5, 16):
        model = load(tmp_path, budget(tmp_path, experts), experts_implementation=way)
        for _ in range(2):
            same(model, reference, prompts())
        assert (model.offload.statistics.total.streamed > 0) == (experts < 16)
        model.offload.close()


@pytest.mark.parametrize("policy", ["lru", "lfu", "arc", "fifo", "fate-offload", "moe-infinity", "moe-deployment"])
def test_policies_change_no_bit(policy, tmp_path):
    cls = saved(tmp_path, "qwen3_moe", num_hidden_layers=3)
    reference, wanted = whole(cls, tmp_path), {**prompts(), "max_new_tokens": 12, "do_sample": False}
    model = load(tmp_path, budget(tmp_path, 12), policy=policy)
    for _ in range(2):
        assert torch.equal(model.generate(**wanted), reference.generate(**wanted))
    model.offload.settle()
    counts = model.offload.statistics
    assert counts.total.needs == sum(each.needs for each in counts.layers)
    assert (counts.total.ahead > 0) == (policy in ("fate-offload", "moe-infinity"))
    assert 0 <= counts.total.useful <= counts.total.ahead
    assert len(counts.text().splitlines()) == 6
    model.offload.close()


def test_a_gate_asked_ahead_is_mostly_the_next_ones(tmp_path):
    """With all of the next layer's gate's answers read ahead and room for all, later layers never miss."""
    cls = saved(tmp_path, "mixtral")
    model = load(tmp_path, budget(tmp_path, 16), policy="fate-offload", options={"extra": 6})
    same(model, whole(cls, tmp_path), prompts())
    first, second = model.offload.statistics.layers
    assert first.misses > 0
    assert (second.misses, second.late + second.hits) == (0, second.needs)
    model.offload.close()


def test_direct_reads_and_types_that_differ(tmp_path):
    cls = saved(tmp_path, "mixtral")
    reference = whole(cls, tmp_path, dtype="bfloat16")
    model = load(tmp_path, budget(tmp_path, 4, dtype="bfloat16"), dtype="bfloat16", direct=True)
    same(model, reference, prompts())
    model.offload.close()


def test_slots_of_another_device_are_filled_through_host_memory(tmp_path):
    """What a GPU would be served by, with the processor as the device: from disk, and from host memory."""
    from roster.offload.engine import Engine
    from roster.offload.source import Disk, Host, Staged

    cls = saved(tmp_path, "mixtral")
    reference = whole(cls, tmp_path)
    for behind in ("disk", "host"):
        model = load(tmp_path, budget(tmp_path, 4), policy="lru")
        old, device = model.offload, torch.device("cpu")
        disk = Disk(old.layout)
        source = Staged(disk if behind == "disk" else Host(old.layout, disk, pin=False), device)
        new = Engine(old.layout, source, old.run, device)
        for block in model.modules():
            if (site := block.__dict__.get("_roster_offloaded")) is not None:
                site.engine = new
        same(model, reference, prompts())
        assert new.statistics.total.misses > 0
        old.close()
        new.close()


def test_a_budget_below_what_stays(tmp_path):
    saved(tmp_path)
    least = budget(tmp_path, 2)
    load(tmp_path, least).offload.close()
    with pytest.raises(RosterError, match=f"stay in memory.*needs {least:,} bytes"):
        load(tmp_path, least - 1)
    with pytest.raises(RosterError, match="not a size"):
        load(tmp_path, "much")


def test_a_checkpoint_that_changes_while_it_is_served(tmp_path):
    cls = saved(tmp_path)
    file = tmp_path / "model.safetensors"
    reference = whole(cls, tmp_path)
    model = load(tmp_path, budget(tmp_path, 2), policy="lru")
    same(model, reference, prompts())
    # Replaced under its name: what is open stays as it was.
    shutil.copy(file, tmp_path / "new")
    os.replace(tmp_path / "new", file)
    same(model, reference, prompts())
    model.offload.close()
    model = load(tmp_path, budget(tmp_path, 2), policy="lru")
    with file.open("r+b") as opened:
        opened.seek(-4, os.SEEK_END)
        opened.write(b"\0\0\0\0")
    os.utime(file, ns=(1, 1))
    for _ in range(2):
        with pytest.raises(RosterError, match=r"model\.safetensors' was changed while .* load the model again"):
            model(**prompts())
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    with pytest.raises(RosterError, match=r"became shorter|was changed"):
        model(**prompts())
    model.offload.close()


def test_a_model_that_nobody_has_any_more_gives_its_slots_back(tmp_path):
    saved(tmp_path)
    model = load(tmp_path, budget(tmp_path, 4))
    with torch.no_grad():
        model(**prompts())
    engine = weakref.ref(model.offload)
    threads = list(model.offload._threads)
    del model
    gc.collect()
    assert not any(each.is_alive() for each in threads)
    del threads
    gc.collect()
    assert engine() is None
    model = load(tmp_path, budget(tmp_path, 4))
    model.offload.close()
    model.offload.close()
    with pytest.raises(RosterError, match="was closed: load the model again"):
        model(**prompts())


def test_what_cannot_be_offloaded_is_refused_before_work(tmp_path):
    saved(tmp_path / "m")
    with pytest.raises(RosterError, match="unknown policy 'lruu': did you mean 'lru'"):
        load(tmp_path / "m", "1GB", policy="lruu")
    with pytest.raises(RosterError, match="no option 'shalow'"):
        load(tmp_path / "m", "1GB", policy="fate-offload", options={"shalow": 1.0})
    with pytest.raises(RosterError, match="no option 'poool'"):
        load(tmp_path / "m", "1GB", policy="lru", options={"poool": True})
    with pytest.raises(RosterError, match="expertflow learns from recorded routes"):
        load(tmp_path / "m", "1GB", policy="expertflow")
    with pytest.raises(RosterError, match="leave experts= and router= out"):
        roster.load(tmp_path / "m", max_memory="1GB", router="arrow-mbc")
    with pytest.raises(RosterError, match="no type of torch"):
        load(tmp_path / "m", "1GB", dtype="float23")
    with pytest.raises(RosterError, match="there is no checkpoint"):
        load(tmp_path / "nowhere", "1GB")
    import tiny

    tiny.base().save_pretrained(tmp_path / "dense")
    with pytest.raises(RosterError, match="no mixture"):
        load(tmp_path / "dense", "1GB")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}})
    )
    with pytest.raises(RosterError, match="is quantised"):
        load(tmp_path / "m", "1GB")
    mixture("switch").save_pretrained(tmp_path / "switch")
    with pytest.raises(RosterError, match="not stacked"):
        load(tmp_path / "switch", "1GB")


def test_an_offloaded_model_is_not_saved(tmp_path):
    saved(tmp_path)
    model = load(tmp_path, budget(tmp_path, 4))
    with pytest.raises(RosterError, match="copy the folder"):
        model.save_pretrained(tmp_path / "again")
    model.set_experts_implementation("eager")
    with torch.no_grad():
        model(**prompts())
    model.config._experts_implementation = "deepgemm"
    with pytest.raises(RosterError, match="needs all experts in memory"):
        model(**prompts())
    model.offload.close()
