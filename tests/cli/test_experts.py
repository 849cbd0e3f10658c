"""`roster experts` on a folder: what is shown, and that nothing is removed unasked. Its examples run elsewhere."""

import json
import shutil

import pytest

from cli.conftest import refuse, run, succeed
from roster import pocket
from roster.library import Library
from roster.library.keeping import versions


@pytest.fixture
def twins(experts):
    shutil.copytree(experts / "sort", experts / "sorted")
    return experts


def test_prune_shows_before_it_removes(twins):
    shown = succeed("experts", "prune", twins)
    assert "nothing was removed" in shown
    assert Library.read(twins).names == ["reverse", "sort", "sorted"]
    assert "sorted is no more" in succeed("experts", "prune", twins, "--yes")
    assert Library.read(twins).names == ["reverse", "sort"]
    assert "no two experts" in succeed("experts", "prune", twins)


def test_one_command_for_folders_and_mixtures(experts, named, here):
    """A folder takes an adapter; a mixture of another recipe than auto says why it does not."""
    assert "it is fitted to its experts" in refuse(
        "experts", "add", named, pocket.experts_path() / "sort"
    ) or "build it anew" in refuse("experts", "add", named, pocket.experts_path() / "sort")
    succeed("experts", "add", experts, pocket.experts_path() / "upper", "--name", "capitals")
    assert Library.read(experts).names == ["capitals", "reverse", "sort"]
    assert "are for folders" in refuse("experts", "add", named, pocket.experts_path() / "sort", "--link")
    assert "is for a mixture" in refuse(
        "experts", "add", experts, pocket.experts_path() / "upper", "--examples", "nothing.jsonl"
    )
    succeed("experts", "remove", experts, "capitals")
    assert "come with roster" in refuse("experts", "remove", "pocket", "sort")


def test_versions_are_listed(experts):
    source = pocket.experts_path() / "upper"
    succeed("experts", "add", experts, source, "--name", "sort", "--replace")
    (old,) = versions(experts)["sort"]
    assert succeed("experts", "list", experts, "--versions") == f"sort@{old.name}\n"
    assert "task: sort" in succeed("experts", "show", experts, f"sort@{old.name}")


def test_describe_writes_the_card(experts, here):
    lines = [{"prompt": f"sort: {letters} ="} for letters in ("cba", "dcb", "xyz", "qqq")]
    (here / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    said = succeed(
        "experts", "describe", experts, "sort", "--data", "data.jsonl", "--count", 3, "--description", "Sorts letters.",
        "--base", "pocket",
    )  # fmt: skip
    assert said == "sort: sort: Sorts letters. (3 examples)\n"
    card = json.loads((experts / "sort" / "card.json").read_text())
    assert card["description"] == "Sorts letters."
    assert len(card["examples"]) == 3
    assert len(card["base_hash"]) == len(card["weights_hash"]) == 64
    assert "not both" in refuse("experts", "describe", experts, "sort", "--description", "a", "--writer", "pocket")


def test_find_wants_one_question(here):
    assert "one of them" in refuse("experts", "find", "pocket")
    assert "give --base" in refuse("experts", "find", "pocket", "sort", "--by", "loss")
    assert "give --data" in refuse("experts", "find", "pocket", "sort", "--by", "loss", "--base", "pocket")
    assert "did you mean 'words'" in refuse("experts", "find", "pocket", "sort", "--by", "word")
    assert "nothing" not in succeed("experts", "find", "pocket", "backwards", "--count", 1)
    assert "has anything in common" in refuse("experts", "find", "pocket", "漢字")


def test_progress_on_a_pipe(here):
    succeed("pocket", "data", "--skill", "reverse", "--count", 2, "--out", "two.jsonl")
    result = run("experts", "find", "pocket", "--data", "two.jsonl", "--base", "pocket", "--by", "shots")
    assert result.exit_code == 0
    assert "experts: 13 of 13" in result.stderr
    assert result.stdout.index("reverse") < result.stdout.index("%") + 2000
