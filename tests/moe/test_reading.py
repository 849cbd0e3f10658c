"""Reading a model with routed blocks: once through memory, to where its parts belong, whatever the files are like."""

import json
import subprocess
import sys

import pytest
import torch
import transformers

import roster
import tiny
from roster.errors import RosterError
from roster.moe import adopt, replace

IDS = torch.arange(12).view(2, 6) % 60


def made(tie=False):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**tiny.ARCHITECTURES["llama"][1], tie_word_embeddings=tie)
    return replace(transformers.LlamaForCausalLM(config), "loss-free-balancing").eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("size", ["5GB", 20_000])
def test_shards_reload_to_the_same_bits(size, tie, tmp_path):
    model = made(tie)
    model.save_pretrained(tmp_path / "saved", max_shard_size=size)
    assert (len(list((tmp_path / "saved").glob("*.safetensors"))) > 1) == (size == 20_000)
    again = roster.load(tmp_path / "saved")
    assert torch.equal(logits(again), logits(model))
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tie
    assert not any(tensor.is_meta for tensor in [*again.parameters(), *again.buffers()])
    assert {n: p.requires_grad for n, p in again.named_parameters()} == {
        n: p.requires_grad for n, p in model.named_parameters()
    }
    # A folder of shards leaves nothing behind when it is written again as one file.
    again.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(roster.load(tmp_path / "saved")), logits(model))


def test_a_missing_shard_is_named(tmp_path):
    made().save_pretrained(tmp_path / "saved", max_shard_size=20_000)
    shard = sorted((tmp_path / "saved").glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(RosterError, match=shard.name):
        roster.load(tmp_path / "saved")


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, "sequential"])
def test_device_maps(device_map, tmp_path):
    model = made()
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(roster.load(tmp_path / "saved", device_map=device_map)), logits(model))


def test_parts_on_the_disk(tmp_path):
    """Half the layers stay on the disk; what is saved from there is whole again."""
    model = made()
    for name, buffer in model.named_buffers():
        if "bias_E" in name:
            buffer.add_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(tmp_path / "saved")
    table = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places = {**table, "model.layers.1": "disk", "lm_head": "cpu", "roster": "cpu"}
    with pytest.raises(RosterError, match="offload_folder="):
        roster.load(tmp_path / "saved", device_map=places)
    again = roster.load(tmp_path / "saved", device_map=places, offload_folder=tmp_path / "disk")
    assert any(p.is_meta for p in again.model.layers[1].parameters())
    assert torch.equal(logits(again), logits(model))
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(roster.load(tmp_path / "again")), logits(model))


def test_a_table_without_a_place_for_everything(tmp_path):
    made().save_pretrained(tmp_path / "saved")
    with pytest.raises(RosterError, match=r"no place for 'lm_head\.weight'"):
        roster.load(tmp_path / "saved", device_map={"model": "cpu"})
    with pytest.raises(RosterError, match="go with device_map="):
        roster.load(tmp_path / "saved", max_memory={"cpu": "1GB"})


@pytest.mark.parametrize("dtype", ["auto", None])
def test_each_tensor_keeps_its_type_unless_one_is_asked_for(dtype, tmp_path):
    model = made()
    model.model.layers[0].to(torch.bfloat16)
    model.save_pretrained(tmp_path / "saved")
    again = roster.load(tmp_path / "saved", dtype=dtype)
    assert {n: p.dtype for n, p in again.named_parameters()} == {n: p.dtype for n, p in model.named_parameters()}
    assert roster.load(tmp_path / "saved", dtype="float16").lm_head.weight.dtype == torch.float16


def test_adopted_models_are_read_the_same_way(tmp_path):
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.MixtralConfig(**small, num_key_value_heads=2, vocab_size=64, num_local_experts=4)
    model = adopt(transformers.MixtralForCausalLM(config).eval(), "switch-transformer")
    model.save_pretrained(tmp_path / "saved", max_shard_size=20_000)
    assert torch.equal(logits(roster.load(tmp_path / "saved")), logits(model))


def test_who_writes_and_what(tmp_path):
    model = made()
    model.save_pretrained(tmp_path / "saved", is_main_process=False)
    assert not (tmp_path / "saved").exists()
    other = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "saved", state_dict=other)
    assert not logits(roster.load(tmp_path / "saved")).any()
    with pytest.raises(RosterError, match="no use for variant"):
        model.save_pretrained(tmp_path / "saved", variant="fp16")


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained"])
def test_a_hub_gets_the_whole_folder(how, tmp_path, monkeypatch):
    """The client of the hub is replaced by one that says what it was asked to send."""
    sent = {}

    class Api:
        def __init__(self, token=None):
            sent["token"] = token

        def create_repo(self, repo_id, **kwargs):
            sent["repository"] = {"repo_id": f"me/{repo_id}", **kwargs}
            return type("Repository", (), {"repo_id": f"me/{repo_id}"})

        def upload_folder(self, *, repo_id, folder_path, **kwargs):
            files = sorted(str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file())
            sent["upload"] = {"repo_id": repo_id, "files": files, **kwargs}
            return "commit"

    monkeypatch.setattr("roster.routed.writing.HfApi", Api)
    if how == "push_to_hub":
        assert made().push_to_hub("mine", token="secret", private=True, commit_message="new") == "commit"
    else:
        save = made().save_pretrained
        save(tmp_path / "mine", push_to_hub=True, token="secret", private=True, commit_message="new")
    assert sent["token"] == "secret"
    assert sent["repository"] == {"repo_id": "me/mine", "private": True, "exist_ok": True}
    files = ["base/config.json", "base/generation_config.json", "model.safetensors", "roster.json"]
    assert sent["upload"] == {"repo_id": "me/mine", "files": files, "commit_message": "new"}


PEAK = """
import json, resource, sys, threading, time
import torch, transformers, roster.api
from pathlib import Path
import roster.moe.reading

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

before = resident()
peak, done = 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
kind, folder = sys.argv[1:]
model = roster.load(folder) if kind == "roster" else transformers.MixtralForCausalLM.from_pretrained(folder)
sum(float(p.sum()) for p in model.parameters())  # a mapped file counts when it has been read
done = True
thread.join()
print(json.dumps({"peak": peak - before, "weights": sum(p.numel() * p.element_size() for p in model.parameters())}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_no_more_memory_than_transformers(tmp_path):
    config = transformers.MixtralConfig(
        hidden_size=384,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=4096,
        num_local_experts=8,
    )
    plain = transformers.MixtralForCausalLM(config)
    plain.save_pretrained(tmp_path / "plain")
    adopt(plain).save_pretrained(tmp_path / "routed")
    measured = {}
    for kind, folder in (("transformers", "plain"), ("roster", "routed")):
        run = subprocess.run(
            [sys.executable, "-c", PEAK, kind, tmp_path / folder], capture_output=True, text=True, check=True
        )
        measured[kind] = json.loads(run.stdout.splitlines()[-1])
    assert measured["roster"]["weights"] == measured["transformers"]["weights"] > 1e8
    assert measured["roster"]["peak"] <= 1.2 * measured["transformers"]["peak"], measured
    print(measured)


def test_how_it_generates_is_saved_and_read(tmp_path):
    model = made()
    model.generation_config = transformers.GenerationConfig(max_new_tokens=7, do_sample=True, top_k=3)
    model.save_pretrained(tmp_path / "saved")
    again = roster.load(tmp_path / "saved").generation_config
    assert (again.max_new_tokens, again.do_sample, again.top_k) == (7, True, 3)
