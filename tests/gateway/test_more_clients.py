"""Clients that want objects and calls of tools: instructor, LlamaIndex, and two of Node.js; see `test_clients.py`."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pydantic
import pytest
from starlette.responses import JSONResponse

from gateway.servers import WORDS
from gateway.test_counting import delta, streaming

pytestmark = pytest.mark.filterwarnings("ignore")
"""These packages warn about each other."""
USAGE = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
COUNT = '{"number": 3}'
ASK = [{"role": "user", "content": "count to three"}]


def obliging(body, headers):
    """An upstream that does what it is asked: a tool is called, an object is written, else it counts."""
    if body.get("tools"):
        name = body["tools"][0]["function"]["name"]
        call = {"id": "c", "type": "function", "function": {"name": name, "arguments": COUNT}}
        said, finish = {"tool_calls": [{"index": 0} | call]}, "tool_calls"
    elif body.get("response_format", {}).get("type") in ("json_object", "json_schema"):
        said, finish = {"content": COUNT}, "stop"
    else:
        return "answers"
    said = {"role": "assistant", "content": None} | said
    if body.get("stream"):
        end = {"choices": [], "usage": USAGE}
        return streaming(delta(said), delta({}, finish), end, b"data: [DONE]\n\n")(body, headers)
    return JSONResponse({"choices": [{"index": 0, "finish_reason": finish, "message": said}], "usage": USAGE})


@pytest.fixture
def obliged(start, upstream):
    """An openai client of a gateway before an obliging upstream."""
    upstream.does |= {"secret-small": obliging, "secret-large": obliging}
    return start()[0]


class Count(pydantic.BaseModel):
    """What is asked for."""

    number: int


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA"])
def test_instructor_reads_objects(obliged, mode):
    package = pytest.importorskip("instructor", reason="needs the extra clients")
    client = package.from_openai(obliged, mode=package.Mode[mode])
    told, answer = client.chat.completions.create_with_completion(
        model="auto", messages=ASK, response_model=Count, max_retries=0
    )
    assert told.number == 3
    assert (answer.model, answer.usage.total_tokens) == ("small", 13)


def test_instructor_streams_parts_of_objects(obliged):
    package = pytest.importorskip("instructor", reason="needs the extra clients")
    client = package.from_openai(obliged)
    *_, last = client.chat.completions.create_partial(model="auto", messages=ASK, response_model=Count, max_retries=0)
    assert last.number == 3


@pytest.fixture
def llama_index(obliged):
    """LlamaIndex's client for servers like OpenAI's."""
    package = pytest.importorskip("llama_index.llms.openai_like", reason="needs the extra clients")
    kind = {"is_chat_model": True, "is_function_calling_model": True, "max_retries": 0, "context_window": 4096}
    return package.OpenAILike(model="auto", api_base=str(obliged.base_url), api_key=obliged.api_key, **kind)


def test_llama_index_chats_and_streams(llama_index):
    from llama_index.core.llms import ChatMessage

    messages = [ChatMessage(role="user", content="count to three")]
    assert llama_index.chat(messages).message.content == "".join(WORDS)
    *_, last = llama_index.stream_chat(messages)
    assert last.message.content == "".join(WORDS)
    assert llama_index.complete("count to three").text == "".join(WORDS)


def test_llama_index_calls_tools(llama_index):
    from llama_index.core.tools import FunctionTool

    def count(number: int) -> int:
        """Counts."""
        return number

    tool = FunctionTool.from_defaults(fn=count)
    answer = llama_index.chat_with_tools([tool], user_msg="count to three")
    calls = llama_index.get_tool_calls_from_response(answer)
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("count", {"number": 3})]


SCRIPT = Path(__file__).with_name("clients.cjs")


def test_clients_of_node_js(obliged):
    """`npm install openai ai @ai-sdk/openai-compatible zod`, and NODE_PATH says where."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    needed = "for (const name of ['openai', 'ai', '@ai-sdk/openai-compatible', 'zod']) require(name)"
    if subprocess.run([node, "-e", needed], capture_output=True).returncode:
        pytest.skip("needs NODE_PATH with npm's openai, ai, @ai-sdk/openai-compatible and zod")
    environment = os.environ | {"BASE_URL": str(obliged.base_url), "API_KEY": obliged.api_key}
    done = subprocess.run([node, SCRIPT], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    counted, called, object = "".join(WORDS), {"number": 3}, {"number": 3}
    each = {"chat": counted, "stream": counted, "tools": called, "object": object}
    assert json.loads(done.stdout) == {"openai": each | {"total": 13}, "ai": each | {"total": 13}}
