"""`roster demo` into a pipe: what it does is told line by line while it runs."""

import re

from cli.conftest import succeed
from roster.arena import mix


def test_demo_tells_its_progress_where_there_is_no_terminal(monkeypatch, tmp_path):
    monkeypatch.setattr(mix, "MATRIX_EXAMPLES", 1)
    monkeypatch.setattr(mix, "GROUPS", {group: skills[:1] for group, skills in mix.GROUPS.items()})
    told = succeed("demo", "--examples", "1", "--methods", "uniform", "--out", tmp_path / "report")
    lines = [line for line in told.splitlines() if re.fullmatch(r".+: \d+ prompts, \d+\.\d s *", line)]
    assert [line.partition(": ")[0] for line in lines[:2]] == ["expert alone", "expert alone"]
    assert [line.partition(":")[0] for line in lines[-2:]] == ["Base alone", "Uniform mixing"]
    assert len(lines) == 1 + 12 + 2, "the base and each expert alone, then the contenders"
