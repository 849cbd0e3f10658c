"""What README and docs/ tell a reader to type runs as it is written: Python in a fresh process per page, `roster` here.

The processes but the README's are forked from one that has imported the packages that roster stands on, which is most
of what starting takes. Nothing of roster is imported there: a page meets roster as its reader does.

A block that cannot run says why on the line before it: `<!-- not run: REASON -->`. The names that the pages use for
other people's models and adapters (`meta-llama/Llama-3.1-8B`, `my-adapters/`) are folders of small ones here, in the
directory where the blocks run. Lines of shell that are not `roster` (make, pip) are not run.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import transformers

import tiny
from cli.conftest import succeed
from moe.mixtures import mixture
from roster import pocket
from roster.lm.data import fetching
from texts import needed

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
_EXCUSE = re.compile(r"<!-- not run: .{10,} -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, the number of its first line in the page, and whether it is to run."""

    language: str
    lines: list[str]
    first: int
    runs: bool


def blocks(text):
    found, lines = [], text.splitlines()
    fences = [at for at, line in enumerate(lines) if line.startswith("```")]
    for start, end in zip(fences[::2], fences[1::2], strict=True):
        runs = start == 0 or not _EXCUSE.fullmatch(lines[start - 1])
        found.append(Block(lines[start][3:], lines[start + 1 : end], start + 1, runs))
    return found


def program(text):
    """The page with everything but its Python left blank, so that an error names the page's own line."""
    lines = [""] * len(text.splitlines())
    for block in blocks(text):
        if block.language == "python" and block.runs:
            lines[block.first : block.first + len(block.lines)] = block.lines
    return "\n".join(lines) if any(lines) else ""


def commands(text):
    """The page's `roster` commands, without their comments."""
    for block in blocks(text):
        if block.language == "bash" and block.runs:
            for line in block.lines:
                for command in line.split(" && "):
                    if command.startswith("roster "):
                        yield shlex.split(command, comments=True)


PYTHON = {name: code for name, path in PAGES.items() if (code := program(path.read_text(encoding="utf-8")))}
SHELL = {name: lines for name, path in PAGES.items() if (lines := [*commands(path.read_text(encoding="utf-8"))])}
RECORDED = {"docs/lm.md": "zeroeval"}
"""Pages whose examples read the texts of recorded data, and of which."""
LIMIT = 300
"""Seconds that one command, or the Python of one page, may take: twenty times what the longest takes on two cores."""
FORKS = """
import os, runpy, sys
import peft, torch, transformers
assert not any(name.partition(".")[0] == "roster" for name in sys.modules)
pages = {}
for script in sys.argv[1:]:
    process = os.fork()
    if not process:
        os.chdir(script.removesuffix(".py"))
        os.dup2(os.open(script + ".errors", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv, sys.path[0] = [script], os.path.dirname(script)
        runpy.run_path(script, run_name="__main__")
        sys.exit()
    pages[process] = script
while pages:
    process, status = os.wait()
    with open(pages[process] + ".status", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(status)))
    os.rename(file.name, pages.pop(process) + ".ended")
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A directory with everything that the pages name and a reader would have."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(pocket.base_path(), folder / "meta-llama" / "Llama-3.1-8B")
    for name in ("reverse", "sort", "upper"):
        shutil.copytree(pocket.experts_path() / name, folder / "my-adapters" / name)
    dense = transformers.LlamaConfig(**{**tiny._SMALL, "num_hidden_layers": 12}, **tiny._HEADS)
    transformers.LlamaForCausalLM(dense).save_pretrained(folder / "my-dense-model")
    mixture("mixtral").save_pretrained(folder / "my-mixtral")
    return folder


@contextmanager
def limited(seconds, what):
    """Fails when the with-block takes longer, by an alarm: nothing else ends what hangs in this process."""

    def late(*_):
        pytest.fail(f"{what} had not ended after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def started(stage):
    """The script of every page, all of them running."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    scripts = {}
    for page, code in PYTHON.items():
        if page in RECORDED and not fetching.is_here(RECORDED[page]):
            continue
        script = scripts[page] = stage / f"{Path(page).stem}.py"
        script.write_text(code, encoding="utf-8")
        (stage / script.stem).mkdir()  # no page stands on what another has written
        for each in ("meta-llama", "my-adapters", "my-dense-model", "my-mixtral"):
            (stage / script.stem / each).symlink_to(stage / each)
    readme = scripts["README.md"]
    others = [str(script) for script in scripts.values() if script != readme]
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "start_new_session": True}
    with (stage / "README.py.errors").open("w") as errors:
        fresh = subprocess.Popen([sys.executable, readme], cwd=stage / readme.stem, stderr=errors, **quiet)
    with (stage / "forks.errors").open("w") as errors:
        forks = subprocess.Popen([sys.executable, "-c", FORKS, *others], stderr=errors, **quiet)
    yield scripts, fresh, forks
    for process in (fresh, forks):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("page", SHELL)
def test_commands_run(page, started, tmp_path, monkeypatch):
    if page in RECORDED:
        needed(RECORDED[page])
    monkeypatch.chdir(tmp_path)
    for _, *words in SHELL[page]:
        assert ">" not in words, "write the file in the test, too, when a page redirects into one"
        with limited(LIMIT, f"{page}: `roster {shlex.join(words)}`"):
            succeed(*words)


@pytest.mark.parametrize("page", PYTHON)
def test_python_runs_in_a_fresh_process(page, started):
    if page in RECORDED:
        needed(RECORDED[page])
    scripts, fresh, forks = started
    ended = Path(f"{scripts[page]}.ended")
    with limited(LIMIT, f"the Python of {page}"):
        while page != "README.md" and not ended.exists():
            assert forks.poll() in (None, 0), (scripts[page].parent / "forks.errors").read_text()[-3000:]
            time.sleep(0.05)
        status = fresh.wait() if page == "README.md" else int(ended.read_text())
    assert status == 0, Path(f"{scripts[page]}.errors").read_text()[-3000:]


def test_what_hangs_is_ended_and_named():
    with (
        pytest.raises(pytest.fail.Exception, match=r"`roster serve` had not ended after 0\.05 s"),
        limited(0.05, "docs/page.md: `roster serve`"),
    ):
        time.sleep(30)


def test_readme_begins_with_an_example_that_runs():
    first = next(
        block for block in blocks(PAGES["README.md"].read_text(encoding="utf-8")) if block.language == "python"
    )
    assert first.runs
    assert first.lines[0] == "import roster"


def test_blocks_are_found_told_apart_and_keep_their_lines():
    excused = "<!-- not run: needs a machine of its own -->\n```python\ny\n```"
    page = f"a\n```python\nx = 1\n```\n{excused}\n```bash\nroster a b  # c\n```"
    assert program(page) == "\n\nx = 1\n\n\n\n\n\n\n\n"
    assert [*commands(page)] == [["roster", "a", "b"]]
    assert program(page.replace(" needs a machine of its own", "")).splitlines()[6] == "y", "no reason, no excuse"
