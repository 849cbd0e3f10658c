"""The command line, run in this process on the pocket models."""

import shutil

import pytest
from typer.testing import CliRunner

from roster import pocket
from roster.cli import app


def run(*arguments):
    """The result of one command: exit_code, stdout, stderr. Anything but an orderly end is raised."""
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def succeed(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def refuse(*arguments):
    """The one line of the error."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def experts(tmp_path):
    """A folder of two experts that may be spoiled."""
    for name in ("reverse", "sort"):
        shutil.copytree(pocket.experts_path() / name, tmp_path / "experts" / name)
    return tmp_path / "experts"


def _built(factory, router):
    out = factory.mktemp("built") / router
    succeed("build", "pocket", "pocket", "--router", router, "--out", out)
    return out


@pytest.fixture(scope="session")
def arrow(tmp_path_factory):
    return _built(tmp_path_factory, "arrow-mbc")


@pytest.fixture(scope="session")
def named(tmp_path_factory):
    return _built(tmp_path_factory, "named")
