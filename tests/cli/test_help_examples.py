"""Every example in a command's help runs as it is written."""

import re
import shlex

import pytest
import typer

from cli.conftest import succeed
from roster.cli import app
from roster.lm.data import LOADERS
from texts import needed

ELSEWHERE = {
    "roster demo": "takes minutes; the arena has tests of its own",
    "roster arena reasoning": "needs reasoning-gym; tests/arena/test_reasoning.py runs it where it is",
    "roster lm board import": "needs downloaded files; tests/lm/test_boards.py makes some",
}


def commands(command, name="roster"):
    yield name, command
    for each, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{name} {each}")


COMMANDS = dict(commands(typer.main.get_command(app)))


def examples(command):
    lines = (command.help or "").replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("roster ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all, so that no example has to be run twice."""
    return tmp_path_factory.mktemp("examples"), set()


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if not hasattr(c, "commands") or n == "roster"])
def test_examples_run(name, folder, monkeypatch):
    lines = examples(COMMANDS[name])
    assert any(line.startswith(name) for line in lines), "no example of its own"
    if name in ELSEWHERE:
        pytest.skip(ELSEWHERE[name])
    for word in {word for line in lines for word in line.split()} & {*LOADERS}:
        needed(word)
    path, done = folder
    monkeypatch.chdir(path)
    for line in lines:
        if line not in done:
            execute(line)
            done.add(line)


def execute(line):
    command, _, target = line.partition(" > ")
    stdout = succeed(*shlex.split(command)[1:])
    if target:
        with open(target, "w", encoding="utf-8") as file:
            file.write(stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_examples_whole(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    shown = succeed(*name.split()[1:], "--help")
    for line in (COMMANDS[name].help or "").splitlines():
        if re.match(r"\s*(roster |--)", line):
            assert line.strip() in shown, "it is too long for 80 columns"
