"""What `roster deploy` writes: an engine's start script, adapters, and a gateway that names an adapter by itself."""

import contextlib
import json
import os
import subprocess
import time
from dataclasses import replace

import httpx
import openai
import peft
import pytest
import torch
import yaml

from deploy.conftest import NAMES, NOBODY, asked
from gateway.servers import Upstream, free_port, gateway_of, running
from roster import RosterError, load, pocket
from roster.auto.explain import explain
from roster.deploy import vllm
from roster.deploy.deploying import Deployment, deploy
from roster.folders import load_folder
from roster.library import Library, LowRank, read_adapter
from roster.pocket import base_path
from roster.routed.base import load_base

SORT = "sort: dbca ="
VLLM_PYTHON = "ROSTER_VLLM_PYTHON"


@pytest.fixture(scope="module")
def deployed(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployed") / "deployed"
    replicas = ("http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1")
    deploy(load_folder(saved).eval(), folder, Deployment(str(base_path()), replicas, "auto"))
    return folder


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_are_what_peft_reads(deployed, saved):
    for name in NAMES:
        assert (
            read_adapter(deployed / "adapters" / name).weights_hash
            == read_adapter(saved / "experts" / name).weights_hash
        )
    base, _ = load_base("pocket")
    ids = torch.arange(3, 12)[None]
    named = load_folder(saved).eval()
    with_peft = peft.PeftModel.from_pretrained(base, str(deployed / "adapters" / "sort")).eval()
    gates = torch.tensor([[float(name == "sort") for name in named.roster.experts]])
    with torch.inference_mode():
        torch.testing.assert_close(with_peft(ids).logits, named(ids, gates=gates).logits, atol=1e-4, rtol=1e-4)


def test_the_start_script_names_every_adapter_and_takes_further_options(deployed, tmp_path):
    """Run from elsewhere, with a stand-in for vLLM's Python that tells what it was given."""
    tells = tmp_path / "python"
    tells.write_text('#!/bin/sh\nfor each in "$@"; do printf "%s\\n" "$each"; done\n')
    tells.chmod(0o755)
    moved = tmp_path / "moved elsewhere"
    deployed.rename(moved)
    try:
        command = [moved / vllm.SCRIPT, "--port", "9000", "--tensor-parallel-size", "2"]
        environment = os.environ | {"PYTHON": str(tells)}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd="/")
        elsewhere = subprocess.run(command, env=environment | {"BASE": "my/base"}, capture_output=True, text=True)
    finally:
        moved.rename(deployed)
    given = told.stdout.splitlines()
    assert given[:4] == ["-m", "vllm.entrypoints.openai.api_server", "--model", str(base_path())]
    assert given[-4:] == ["--port", "9000", "--tensor-parallel-size", "2"]
    modules = given[given.index("--lora-modules") + 1 : -4]
    assert modules == [f"{name}={moved}/adapters/{name}" for name in NAMES]
    assert given[given.index("--max-lora-rank") + 1] == "8"
    assert elsewhere.stdout.splitlines()[3] == "my/base"


def test_replicas_share_every_model(deployed):
    config = yaml.safe_load((deployed / "gateway.yaml").read_text())
    assert [each["url"] for each in config["upstreams"].values()] == ["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"]
    assert set(config["models"]) == {"base", *NAMES}
    assert all(each["upstream"] == list(config["upstreams"]) for each in config["models"].values())
    assert all(each["context"] == 256 for each in config["models"].values())


@contextlib.contextmanager
def gateway_for(folder, *urls):
    """(client, http) of a gateway with the config that was written, and these addresses for the engine's."""
    config = yaml.safe_load((folder / "gateway.yaml").read_text())
    config["upstreams"] = {f"engine-{at}": {"url": f"{url}/v1"} for at, url in enumerate(urls)}
    for model in config["models"].values():
        model["upstream"] = list(config["upstreams"])
    with (
        gateway_of(config, folder) as (url, gateway),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        yield client, gateway


def test_a_client_that_only_knows_auto_reaches_the_adapter_that_the_mixture_would_choose(deployed, saved):
    upstream, model = Upstream(), load_folder(saved).eval()
    with running(upstream.app) as engine, gateway_for(deployed, engine) as (client, _):
        for _, prompt in asked(2):
            answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": prompt}])
            chosen = next(iter(explain(model, prompt).weights), None) or "base"
            assert answer.roster["model"] == upstream.seen[-1]["model"] == chosen
            assert "general prompts" in answer.roster["reason"]
        named = client.chat.completions.create(model="sort", messages=[{"role": "user", "content": NOBODY[0]}])
        assert named.roster["model"] == "sort"
        earlier = [{"role": "user", "content": "upper: abc ="}, {"role": "assistant", "content": "ABC"}]
        answer = client.chat.completions.create(model="auto", messages=[*earlier, {"role": "user", "content": SORT}])
        assert answer.roster["model"] == "sort", "what the user said last decides"


def test_where_an_adapter_fails_the_base_stands_in_and_the_reason_says_so(deployed):
    upstream = Upstream()
    upstream.does["sort"] = "garbage"
    with running(upstream.app) as engine, gateway_for(deployed, engine) as (client, _):
        answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": SORT}])
        assert answer.roster["model"] == "base"
        assert answer.roster["reason"].startswith("stands in for sort")
        assert [each["model"] for each in answer.roster["attempts"]] == ["sort", "base"]


def test_the_decision_reaches_the_metrics(deployed):
    upstream = Upstream()
    with running(upstream.app) as engine, gateway_for(deployed, engine) as (client, _):
        client.chat.completions.create(model="auto", messages=[{"role": "user", "content": SORT}])
        text = httpx.get(f"{str(client.base_url).removesuffix('/v1/')}/metrics", trust_env=False).text
    assert 'roster_decision_seconds_count{policy="auto"} 1.0' in text


def test_a_config_without_one_of_the_adapters_is_refused(deployed):
    config = yaml.safe_load((deployed / "gateway.yaml").read_text())
    del config["models"]["sort"]
    says = r"policies\.auto: the probe chooses 'sort', which is no model here"
    with pytest.raises(RosterError, match=says), gateway_of(config, deployed):
        pass


@pytest.mark.parametrize(
    ("name", "says"), [("auto", "meaning of its own"), ("base", "meaning of its own"), ("two words", "model's name")]
)
def test_names_that_would_not_be_models_are_refused_before_any_work(name, says, tmp_path):
    renamed = replace(read_adapter(pocket.experts_path() / "sort"), name=name)
    library = Library({"upper": read_adapter(pocket.experts_path() / "upper"), name: renamed})
    model = load("pocket", experts=library, router="auto").eval()
    with pytest.raises(RosterError, match=says):
        deploy(model, tmp_path / "out", Deployment("base"))
    assert not (tmp_path / "out").exists()


def test_ranks_that_vllm_does_not_take_are_refused():
    adapter = read_adapter(pocket.experts_path() / "sort")
    wide = replace(adapter, modules={"q": LowRank(torch.zeros(600, 8), torch.zeros(8, 600), 1.0)})
    with pytest.raises(RosterError, match="up to 512; 'sort' has 600"):
        vllm.start_script("base", {"sort": wide}, "adapters", "base")


def test_a_base_with_odd_characters_stays_one_word(tmp_path):
    script = tmp_path / "start.sh"
    adapter = read_adapter(pocket.experts_path() / "sort")
    script.write_text(vllm.start_script('a "$HOME" `x` \\ base', {"sort": adapter}, "adapters", "base"))
    tells = tmp_path / "python"
    tells.write_text('#!/bin/sh\nprintf "%s" "$4"\n')
    tells.chmod(0o755)
    told = subprocess.run(
        ["sh", script], env=os.environ | {"PYTHON": str(tells)}, capture_output=True, text=True, check=True
    )
    assert told.stdout == 'a "$HOME" `x` \\ base'


@pytest.mark.skipif(VLLM_PYTHON not in os.environ, reason=f"{VLLM_PYTHON} names no Python with vLLM")
def test_a_real_vllm_answers_as_the_mixture(saved, tmp_path):
    """Pocket prompts are plain texts, so they go to /v1/completions; float32 on both sides, answers token for token.

    The probe reads what the mixture's own `auto` reads: its decisions are the mixture's.
    """
    port = free_port()
    folder, engine = tmp_path / "deployed", f"http://127.0.0.1:{port}"
    deploy(load_folder(saved).eval(), folder, Deployment(str(base_path()), (f"{engine}/v1",), reads="auto"))
    environment = os.environ | {"PYTHON": os.environ[VLLM_PYTHON], "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    options = ["--port", str(port), "--dtype", "float32", "--max-num-seqs", "4", "--enforce-eager"]
    model = load_folder(saved).eval()
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([folder / vllm.SCRIPT, *options], env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 600
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{engine}/health", trust_env=False).status_code == 200:
                    break
            assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
            assert time.monotonic() < end
            time.sleep(1)
        listed = {each["id"] for each in httpx.get(f"{engine}/v1/models", trust_env=False).json()["data"]}
        assert listed == {"base", *NAMES}
        with gateway_for(folder, engine) as (client, _):
            for name, prompt in asked(1):
                answer = client.completions.create(model="auto", prompt=prompt, max_tokens=8, temperature=0.0)
                inputs = model.inputs(prompt)
                with torch.inference_mode():
                    made = model.generate(**inputs, max_new_tokens=8, do_sample=False)
                own = model.roster.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
                assert (answer.roster["model"], answer.choices[0].text) == (name or "base", own)
    finally:
        server.terminate()
        server.wait(60)


def test_what_is_deployed_again_replaces_what_was_there_and_leaves_other_files(saved, deployed):
    (deployed / "gateway.db").write_text("kept")
    (deployed / "adapters" / "gone").mkdir()
    deploy(load_folder(saved).eval(), deployed, Deployment("elsewhere", reads="tfidf"))
    assert (deployed / "gateway.db").read_text() == "kept"
    assert not (deployed / "adapters" / "gone").exists()
    assert json.loads((deployed / "router" / "roster.json").read_text())["kind"] == "probe"
    (deployed / "gateway.db").unlink()
