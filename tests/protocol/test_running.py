"""Declaring, running, stopping and going on, on a check that takes no time."""

import dataclasses
import json
import subprocess

import numpy as np
import pytest

from evidence import registry
from evidence.protocol import page, runner
from evidence.protocol.check import APART, Check, Draw
from evidence.protocol.declaration import Declaration, Pairs, Statistic, declare, read, require_committed
from evidence.protocol.record import Line, Record
from roster.errors import RosterError
from roster.workers import Workers

CONTENDERS = {"ours": 0.5, "theirs": 1.0, "planted": 0.5, "plain": 1.0}


def noisy(mean):
    def run(draw: Draw) -> float:
        return mean + 0.02 * float(np.random.default_rng([draw.ground, draw.luck]).standard_normal())

    return run


def made_up(seeds=6, effect=0.1):
    declaration = Declaration(
        slug="rmoe",
        version=1,
        claim="Ours is lower.",
        ground="noise",
        budget="equal",
        contenders=dict.fromkeys(CONTENDERS, "a number"),
        pairs=Pairs("ours", "theirs", "theirs", "planted", "plain"),
        statistic=Statistic("a number", "lower", effect),
        seeds=seeds,
    )
    return Check(declaration, {name: noisy(mean) for name, mean in CONTENDERS.items()})


def find(_name):
    return made_up()


@pytest.fixture
def folder(tmp_path):
    declare(made_up().declaration, tmp_path / "declarations", has_results=False)
    return tmp_path


def values(folder, check=None):
    return Record(folder / "records", (check or made_up()).declaration).values()


def test_what_is_run_is_what_was_declared(folder):
    told = []
    runner.run_all(["made-up"], find, folder, report=told.append)
    found, again = values(folder)
    assert {name: len(each) for name, each in found.items()} == dict.fromkeys(CONTENDERS, 6)
    assert len(again) == 6
    assert again != found["ours"], "the null has luck of its own"
    assert found["ours"][2] == noisy(0.5)(Draw(2, 2))
    assert again[2] == noisy(0.5)(Draw(2, 2 + APART))
    assert len(told) == 30
    assert told[-1].startswith("30/30")
    runner.run_all(["made-up"], find, folder, report=told.append)
    assert len(told) == 30, "nothing is run twice"


def test_two_processes_write_down_what_one_does(folder, tmp_path):
    runner.run_all(["made-up"], find, folder, report=lambda _: None)
    other = tmp_path / "other"
    declare(made_up().declaration, other / "declarations", has_results=False)
    runner.run_all(["made-up"], find, other, Workers(2), report=lambda _: None)
    assert values(other) == values(folder)
    lines = [Record(each / "records", made_up().declaration).lines for each in (folder, other)]
    for one, two in zip(*(sorted(each.values(), key=lambda line: line.key) for each in lines), strict=True):
        same = {"seconds": 0.0, "date": "", "code": ""}  # the modules that a process has loaded are its own
        assert dataclasses.replace(one, **same) == dataclasses.replace(two, **same)
    assert {line.clock for line in lines[1].values()} == {"processor"}


def test_what_two_checks_share_is_run_once(tmp_path):
    ran = []

    def counted(draw):
        ran.append(draw)
        return noisy(1.0)(draw)

    first = made_up(seeds=5)
    first = Check(first.declaration, {**first.contenders, "theirs": counted})
    second = Check(
        dataclasses.replace(first.declaration, part="more", seeds=6),
        {**made_up().contenders, "plain": counted},
    )
    checks = {"first": first, "second": second}
    for check in checks.values():
        declare(check.declaration, tmp_path / "declarations", has_results=False)
    runner.run_all(["first"], checks.__getitem__, tmp_path, report=lambda _: None)
    assert len(ran) == 5
    runner.run_all(["first", "second"], checks.__getitem__, tmp_path, report=lambda _: None)
    assert len(ran) == 6, "only the sixth seed was new"
    theirs, plain = values(tmp_path, first)[0]["theirs"], values(tmp_path, second)[0]["plain"]
    assert plain[:5] == theirs
    digests = {line.declaration for line in Record(tmp_path / "records", second.declaration).lines.values()}
    assert digests == {second.declaration.digest()}, "a copied line belongs to the declaration that it stands under"


def test_what_was_cut_off_goes_on_to_the_same_end(folder, tmp_path):
    runner.run_all(["made-up"], find, folder, report=lambda _: None)
    whole, path = values(folder), next((folder / "records").iterdir())

    def cut(_line):
        if len(path.read_bytes().splitlines()) == 7:
            raise KeyboardInterrupt

    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        runner.run_all(["made-up"], find, folder, report=cut)
    with path.open("a") as file:  # killed in the middle of a line
        file.write('{"contender": "ours", "gro')
    runner.run_all(["made-up"], find, folder, report=lambda _: None)
    assert values(folder) == whole
    assert len(path.read_text().splitlines()) == 30


def test_a_changed_declaration_is_refused_under_an_old_result(folder):
    runner.run_all(["made-up"], find, folder, report=lambda _: None)
    moved = made_up(effect=0.4)
    with pytest.raises(RosterError, match="not what version 1 declared"):
        runner.run_all(["made-up"], lambda _name: moved, folder)
    with pytest.raises(RosterError, match="raise its version"):
        declare(moved.declaration, folder / "declarations", has_results=True)
    path = declare(moved.declaration, folder / "declarations", has_results=False)  # by hand, over the old one
    with pytest.raises(RosterError, match="results of another declaration"):
        runner.run_all(["made-up"], lambda _name: moved, folder)
    with pytest.raises(RosterError, match="results of another declaration"):
        page.judge_folder(folder)
    content = json.loads(path.read_text())
    content["declaration"]["seeds"] = 5
    path.write_text(json.dumps(content))
    with pytest.raises(RosterError, match="changed after it was declared"):
        read(path)


def test_a_new_version_stands_beside_the_old_one(folder):
    runner.run_all(["made-up"], find, folder, report=lambda _: None)
    newer = Check(dataclasses.replace(made_up(effect=0.6).declaration, version=2), made_up().contenders)
    declare(newer.declaration, folder / "declarations", has_results=False)
    runner.run_all(["made-up"], lambda _name: newer, folder, report=lambda _: None)
    old, new = page.judge_folder(folder)
    assert (old.judgement.verdict, new.judgement.broken) == ("shown", True), "0.6 is more than was planted"
    figures = page.verdicts([old, new], {})["rmoe"]
    assert [each["version"] for each in figures["declarations"]] == [1, 2]
    assert figures["verdict"] == "undecided", "the last version speaks"
    claims = page.claims_page([old, new])
    assert "rmoe, version 1: shown" in claims
    assert "rmoe, version 2: broken" in claims
    both = {"rmoe": figures, "mowe": {"declarations": [], "verdict": "undecided"}}
    (folder / "undeclared.json").write_text('{"mowe": "nothing to set it against"}')
    findings = page.findings_page([old, new], both, folder)
    assert "Of 2 methods with a claim, 1 are declared and 1 were judged: 0 shown (0%), 0 refuted (0%), 1 un" in findings
    assert "rmoe` (broken, no evidence: the planted effect is refuted" in findings
    assert "- `mowe`: nothing to set it against" in findings


def test_what_is_not_declared_or_not_committed_is_not_run(tmp_path, folder):
    with pytest.raises(RosterError, match="is not declared"):
        runner.run_all(["made-up"], find, tmp_path / "elsewhere")
    path = made_up().declaration.file(folder / "declarations")
    require_committed(path)  # no repository here
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(folder)]
    subprocess.run([*git, "init", "-q"], check=True)
    with pytest.raises(RosterError, match="not committed"):
        require_committed(path)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "declared"], check=True)
    require_committed(path)


def test_several_parts_hold_together():
    judged = {word: page.Judgement(word, word, {}) for word in ("shown", "refuted", "undecided")}
    assert page._of_parts([judged["shown"], judged["shown"]])[0] == "shown"
    assert page._of_parts([judged["shown"], judged["undecided"]])[0] == "undecided"
    assert page._of_parts([judged["undecided"], judged["refuted"]])[0] == "refuted"
    assert page._of_parts([])[0] == "undecided"


@pytest.mark.parametrize("name", registry.MODULES)
def test_what_is_registered_is_what_is_written_down(name):
    declaration = registry.find(name).declaration
    assert declaration.name == name
    written = declaration.file(registry.FOLDER / "declarations")
    assert written.exists(), "python -m evidence.run --declare, and commit it"
    assert read(written).digest() == declaration.digest(), "a changed declaration gets a new version"


def test_the_package_shows_what_the_records_say():
    earlier = json.loads((registry.FOLDER / "earlier.json").read_text(encoding="utf-8"))
    made = page.verdicts(page.judge_folder(registry.FOLDER), earlier)
    written = json.loads((registry.FOLDER.parent / "src/roster/recipes/verdicts.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(made)) == written, "python -m evidence.run --pages"


def test_a_shared_run_is_timed_once_and_what_lacks_is_told(tmp_path):
    """Two checks with the same lines take the time of one; half of a third check's runs lack."""
    for slug, seeds in (("rmoe", 6), ("mowe", 6), ("thor", 12)):
        declaration = dataclasses.replace(made_up().declaration, slug=slug, seeds=seeds)
        declare(declaration, tmp_path / "declarations", has_results=False)
        record = Record(tmp_path / "records", declaration)
        for seed in range(6):
            for at, name in enumerate((*CONTENDERS, "again")):
                contender, luck = ("ours", seed + APART) if name == "again" else (name, seed)
                value = float(at) if slug != "thor" else 10.0 + at
                told = ("2026-01-01", "a machine", "code", declaration.digest(), "processor")
                record.add(Line(contender, seed, luck, value, 60.0, *told))
    (tmp_path / "quick.json").write_text(
        json.dumps({"processor": 90.0, "checks": 3, "date": "2026-01-01", "made_by": "a machine"})
    )
    evidence, quick = page.running_time(page.judge_folder(tmp_path), tmp_path)
    assert "60 minutes of processor time" in evidence
    assert "about 30 more" in evidence
    assert "1.5 minutes of processor time for 3 checks" in quick
