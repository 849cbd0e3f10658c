"""The gateway in front of real servers: two `transformers serve` processes with pocket models of different sizes.

    make gateway-demo

`small` is the pocket base (3.0 M parameters, 4 layers), which knows few of the skills; `large` is the base with the
multi-task adapter merged in, which knows most, and twice the layers, so that it takes longer as well. Both answer
through the gateway, asked by the `openai` client and by curl, streamed and whole; then a policy that starts from
nothing learns from scores which of them to ask for which prompt. Every step is checked: the script ends with an error
when one does not hold. Prices are invented: large costs ten times as much as small.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import openai
import torch
import transformers
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from roster.pocket import base_path, multitask_path
from roster.pocket.skills import examples

SKILLS = ("upper", "digits", "twice", "reverse")
ROUNDS = 10
KEY = "demo-key-0123456789"
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
CONFIG = """
listen: {{port: {gateway}}}
upstreams:
  one: {{url: "http://127.0.0.1:{small}/v1", drop: [stream_options]}}
  two: {{url: "http://127.0.0.1:{large}/v1", drop: [stream_options]}}
models:
  small: {{upstream: one, name: "{small_name}", price: {{input: 1.0, output: 1.0}}, max_output: 32, logprobs: false}}
  large: {{upstream: two, name: "{large_name}", price: {{input: 10.0, output: 10.0}}, max_output: 32, logprobs: false}}
auto: learning
policies:
  learning: {{kind: thompson, features: 64, exploration: 0.3, cost_weight: 300.0, seed: 0}}
  plain: {{kind: fixed, models: [small, large]}}
keys: {{demo: {{key: {key}, budget: 1.0}}}}
"""


def write_models(folder: Path) -> dict[str, Path]:
    """The two models as `transformers serve` takes them: whole, and with a chat template."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    base = AutoModelForCausalLM.from_pretrained(base_path(), dtype=torch.float32)
    paths = {"small": folder / "small", "large": folder / "large"}
    base.save_pretrained(paths["small"])
    deepened(PeftModel.from_pretrained(base, str(multitask_path())).merge_and_unload()).save_pretrained(paths["large"])
    for path in paths.values():
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(base_path() / name, path / name)
        (path / "chat_template.jinja").write_text(TEMPLATE)
    return paths


def deepened(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same function with twice the layers: each is followed by a copy whose outputs are zero.

    Block expansion before its training, as in C. Wu et al., "LLaMA Pro" (2024), arXiv 2401.02415.
    """
    config = LlamaConfig.from_dict(model.config.to_dict() | {"num_hidden_layers": 2 * model.config.num_hidden_layers})
    deep = LlamaForCausalLM(config)
    weights = model.state_dict()
    for name, value in deep.state_dict().items():
        layer = re.search(r"layers\.(\d+)\.", name)
        old = name if layer is None else name.replace(layer[0], f"layers.{int(layer[1]) // 2}.")
        copied = layer is not None and int(layer[1]) % 2
        silent = copied and name.endswith(("o_proj.weight", "down_proj.weight"))
        value.copy_(torch.zeros_like(value) if silent else weights[old])
    return deep.eval()


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """A process, for as long as it is needed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w+b") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen, url: str, log: Path) -> None:
    """Until a server answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None:
        try:
            opener.open(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"{process.args[0]} ended:\n{log.read_text()}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def show_calls(client: openai.OpenAI, console: Console) -> None:
    """Each way to ask, once."""
    ask = [{"role": "user", "content": "upper: abcd ="}]
    for model in ("small", "large", "auto", "plain"):
        answer = client.chat.completions.create(model=model, messages=ask, max_tokens=16)
        roster = answer.roster
        console.print(f"{model}: {answer.choices[0].message.content!r} by {answer.model} ({roster['reason']})", end=" ")
        console.print(f"for {roster['cost']:.6f}, {answer.usage.total_tokens} tokens")
        assert answer.choices[0].message.content
        assert not roster["usage_estimated"]
    chunks = list(client.chat.completions.create(model="large", messages=ask, max_tokens=16, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    console.print(f"streamed: {pieces}, {chunks[-1].roster['cost']:.6f}")
    assert len(chunks) > 2
    assert chunks[-1].roster["model"] == "large"
    text = client.completions.create(model="large", prompt="upper: abcd =", max_tokens=16)
    assert text.choices[0].text.strip() == "".join(pieces).strip()


def show_curl(url: str, console: Console) -> None:
    """The same by curl, headers and all."""
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "upper: abcd ="}], "max_tokens": 16})
    command = ["curl", "-sS", "-i", "--noproxy", "*", f"{url}/chat/completions", "-H", f"Authorization: Bearer {KEY}"]
    told = subprocess.run(
        [*command, "-d", body, "-H", "Content-Type: application/json"], capture_output=True, text=True
    )
    lines = [line for line in told.stdout.splitlines() if line.startswith(("HTTP", "x-roster"))]
    console.print("curl:", *lines, sep="\n  ", markup=False)
    assert lines[0].startswith("HTTP/1.1 200")
    assert any(line.startswith("x-roster-model: ") for line in lines)


def learn(client: openai.OpenAI) -> list[tuple[str, str, float, float]]:
    """(skill, model, score, cost) of each call by `auto`, with a score sent back after each."""
    rows = []
    asked = {skill: examples(skill, "test", ROUNDS, 0) for skill in SKILLS}
    for at in range(ROUNDS):
        for skill in SKILLS:
            example = asked[skill][at]
            call = {"prompt": example.prompt, "max_tokens": 24}
            answer = client.completions.create(model="auto", **call)
            score = float(answer.choices[0].text.strip() == example.answer.strip())
            told = client.post("/feedback", body={"id": answer.id, "score": score}, cast_to=object)
            assert told["learned"], told
            rows.append((skill, answer.model, score, answer.roster["cost"]))
    return rows


def baseline(client: openai.OpenAI, model: str) -> list[tuple[str, str, float, float]]:
    """The same prompts, all to one model."""
    rows = []
    for skill in SKILLS:
        for example in examples(skill, "test", ROUNDS, 0):
            answer = client.completions.create(model=model, prompt=example.prompt, max_tokens=24)
            score = float(answer.choices[0].text.strip() == example.answer.strip())
            rows.append((skill, answer.model, score, answer.roster["cost"]))
    return rows


def main() -> None:
    console = Console(width=120)
    ports = {name: free_port() for name in ("small", "large", "gateway")}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        models = write_models(folder)
        names = {f"{model}_name": str(path) for model, path in models.items()}
        (folder / "gateway.yaml").write_text(CONFIG.format(**ports, **names, key=KEY))
        scripts = Path(sys.executable).parent
        commands = {
            model: [scripts / "transformers", "serve", path, "--device", "cpu", "--port", ports[model]]
            for model, path in models.items()
        } | {"gateway": [scripts / "roster", "gateway", folder / "gateway.yaml"]}
        logs = {each: folder / f"{each}.log" for each in commands}
        processes = {
            each: stack.enter_context(running([str(word) for word in command], logs[each]))
            for each, command in commands.items()
        }
        for each, process in processes.items():
            wait_for(process, f"http://127.0.0.1:{ports[each]}/health", logs[each])
        url = f"http://127.0.0.1:{ports['gateway']}"
        client = stack.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0))
        show_calls(client, console)
        show_curl(f"{url}/v1", console)
        results = {"all to small": baseline(client, "small"), "all to large": baseline(client, "large")}
        results["learned while asking"] = learn(client)
        table = Table("who is asked", "right", "cost", *(f"{skill}: to large" for skill in SKILLS))
        for way, rows in results.items():
            right = sum(row[2] for row in rows) / len(rows)
            shares = [[row[1] == "large" for row in rows if row[0] == skill] for skill in SKILLS]
            large = [f"{sum(share) / len(share):.0%}" for share in shares]
            table.add_row(way, f"{right:.0%}", f"{sum(row[3] for row in rows):.6f}", *large)
        console.print(table)
        print("every step held")


if __name__ == "__main__":
    main()
