"""`roster demo` into a pipe: what it does is told line by line while it runs."""

import re

from cli.conftest import succeed
from roster.arena import mix
from roster.pocket.skills import COMPOSED, HELD_IN, JOIN, examples


def test_demo_tells_its_progress_where_there_is_no_terminal(monkeypatch, tmp_path):
    monkeypatch.setattr(mix, "MATRIX_EXAMPLES", 1)
    monkeypatch.setattr(mix, "GROUPS", {group: skills[:1] for group, skills in mix.GROUPS.items()})
    told = succeed("demo", "--examples", "1", "--methods", "uniform", "--out", tmp_path / "report")
    lines = [line for line in told.splitlines() if re.fullmatch(r".+: \d+ prompts, \d+\.\d s *", line)]
    assert [line.partition(": ")[0] for line in lines[:2]] == ["expert alone", "expert alone"]
    assert [line.partition(":")[0] for line in lines[-2:]] == ["Base alone", "Uniform mixing"]
    assert len(lines) == 1 + 12 + 2, "the base and each expert alone, then the contenders"


def test_the_oracle_by_part_joins_what_each_part_s_expert_answers(monkeypatch):
    asked = [*examples(COMPOSED[0], "test", 2), *examples(HELD_IN[0], "test", 2)]

    def tell(self, model, asked, what, tasks):
        """Each expert answers its own part right and spoils the other."""
        told = []
        for each, task in zip(asked, tasks, strict=True):
            parts = each.answer.split(JOIN)
            told.append(
                JOIN.join(part if own == task else "spoilt" for part, own in zip(parts, each.parts, strict=True))
            )
        return told

    monkeypatch.setattr(mix.Arena, "tell", tell)
    arena = mix.Arena(None, None, None, asked, 0, None)
    assert arena.by_part(None, "oracle") == [True] * 4
    first = [each.parts[0] for each in asked]
    assert arena.answer(None, asked, "one expert", first) == [False, False, True, True]
