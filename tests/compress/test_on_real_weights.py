"""Compression and carving on weights that were trained: a few layers of SmolLM2 where it is cached, and a small mixture
that is trained here."""

from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
import transformers

from compress.test_smaller import config
from roster.compress import as_texts, decide, make_method, open_mixture, plan_compress, read_texts
from roster.convert import plan_cmoe, plan_factorllm, plan_upcycling, prove
from roster.convert.dense import open_dense
from roster.weights import run

SMOL = Path.home() / ".cache" / "roster" / "smollm2-135m-instruct-0.1.2"


@pytest.fixture(scope="module")
def smol(tmp_path_factory):
    """The first three layers, which is another model, but one with trained blocks and a real tokenizer."""
    if not (SMOL / "model.safetensors").is_file():
        pytest.skip("SmolLM2-135M-Instruct is not cached")
    folder = tmp_path_factory.mktemp("smol")
    model = transformers.AutoModelForCausalLM.from_pretrained(SMOL, num_hidden_layers=3)
    model.save_pretrained(folder)
    for file in SMOL.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def ids(folder, length=64):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return torch.tensor([tokenizer(topics["class"])["input_ids"][: 2 * length]]).view(2, -1)


def test_an_upcycled_model_without_half_of_its_copies_is_still_the_dense_one(smol, tmp_path):
    run(plan_upcycling(open_dense(smol), copies=4, groups=2), tmp_path / "four")
    opened = open_mixture(tmp_path / "four")
    texts = read_texts(None, smol, rows=1, length=64)
    for slug in ("reap", "ream", "uncurl"):
        method = make_method(slug, opened, "50%")
        run(plan_compress(method, decide(method, opened, texts), "50%", texts), tmp_path / slug)
        proof = prove(smol, tmp_path / slug, ids(smol))
        # The copies are bfloat16, and so are their means: alike to the bit.
        assert proof.agree == 1.0, proof.text()
        assert proof.apart < 2e-3, proof.text()
        size = [sum(f.stat().st_size for f in (tmp_path / each).glob("*.safetensors")) for each in ("four", slug)]
        assert size[1] < size[0]


def states(folder, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().model
    with torch.no_grad():
        return model(input_ids=tokens).last_hidden_state


def test_units_that_fire_together_are_worth_more_than_random_ones(smol, tmp_path):
    """Half of the units on duty: how far the last states are from the dense model's, on tokens not calibrated on."""
    texts, tokens = read_texts(None, smol, rows=2, length=256), ids(smol)
    apart, before = {}, states(smol, tokens)
    for partition in ("markers", "random"):
        run(plan_cmoe(open_dense(smol), texts, active=6, partition=partition), tmp_path / partition)
        apart[partition] = float((states(tmp_path / partition, tokens) - before).norm() / before.norm())
    assert apart["markers"] < 0.9 * apart["random"], apart


def test_all_on_is_the_dense_model_on_real_tokens(smol, tmp_path):
    texts = read_texts(None, smol, rows=1, length=64)
    for name, plan in (
        ("cmoe", plan_cmoe(open_dense(smol), texts, active=14)),
        ("factorllm", plan_factorllm(open_dense(smol), texts, top_k=4)),
    ):
        run(plan, tmp_path / name)
        proof = prove(smol, tmp_path / name, ids(smol))
        # 14 and 4 times a bfloat16 weight: 14 is no power of two, so cmoe's routed half is rounded once.
        assert proof.agree > (0.9 if name == "cmoe" else 0.999), proof.text()
        assert abs(proof.nats_after - proof.nats_before) < 0.05, proof.text()


WORDS = 20


def lines(count, generator):
    """Each word follows from the two before it, by a random table: much to know by heart, which experts do."""
    table = torch.randint(1, WORDS + 1, (WORDS + 1, WORDS + 1), generator=torch.Generator().manual_seed(0))
    rows = torch.randint(1, WORDS + 1, (count, 2), generator=generator)
    for _ in range(10):
        rows = torch.cat([rows, table[rows[:, -2], rows[:, -1]][:, None]], dim=1)
    return rows


def test_what_methods_keep_of_a_trained_mixture_is_what_matters(tmp_path):
    """Keeping the experts that REAP would drop costs more, merging loses less than that, pruning half very little."""
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    settings = {"num_local_experts": 8, "num_hidden_layers": 2, "vocab_size": 32}
    model = transformers.AutoModelForCausalLM.from_config(config("mixtral", **settings))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        batch = lines(64, generator)
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path / "before")
    opened, fresh, texts = open_mixture(tmp_path / "before"), lines(64, generator), lines(64, generator)
    texts = as_texts(texts.tolist())

    def loss_of(folder):
        other = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            return other(input_ids=fresh, labels=fresh).loss.item()

    found = {"before": loss_of(tmp_path / "before")}
    for slug in ("reap", "mc-smoe", "moe-pruner"):
        method = make_method(slug, opened, "50%")
        decisions = decide(method, opened, texts)
        run(plan_compress(method, decisions, "50%", texts), tmp_path / slug)
        found[slug] = loss_of(tmp_path / slug)
        if slug == "reap":
            others = {
                layer: type(each).kept([e for e in range(8) if e not in each.figures["kept"]], 8)
                for layer, each in decisions.items()
            }
            run(plan_compress(method, others, "50%", texts), tmp_path / "others")
            found["others"] = loss_of(tmp_path / "others")
    assert found["before"] < found["reap"] < found["others"] - 0.2, found
    assert found["before"] < found["mc-smoe"] < found["others"] - 0.2, found
    assert found["before"] < found["moe-pruner"] < found["before"] + 0.2, found
