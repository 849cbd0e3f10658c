"""`make mutants`: which changes it makes, where it makes none, and which tests it would run for one."""

import pytest

pytest.importorskip("cosmic_ray", reason="cosmic-ray is not here: the extra `mutants`")

from mutants.changes import changes_of, lines_to_run
from mutants.sample import EQUIVALENT, lines_of, set_aside

SOURCE = """
'''Not 1 of these words.'''

LIMIT: "int | None" = 3


class Part:
    def __init__(self, size: int = 2):
        self.size = size

    def __repr__(self):
        return "part" * 2

    @property
    def double(self) -> "int | None":
        '''Twice + once.'''
        if self.size < 0:
            raise ValueError(f"{self.size + 1} is not enough")
        self.seen.append(self.size)
        return self.size + 4
"""


def made():
    return {(each.line, each.family): lines_of(SOURCE, each.apply(SOURCE)) for each in changes_of("a.py", SOURCE)}


def test_what_is_changed_and_what_is_left_alone():
    found = made()
    assert {line for line, _ in found} == {4, 8, 17, 19, 20}
    assert found[17, "condition"] == ("if self.size < 0:", "if not self.size < 0:")
    assert found[17, "comparison"][1] in ("if self.size <= 0:", "if self.size >= 0:")
    assert found[19, "statement"] == ("self.seen.append(self.size)", "pass")
    assert found[20, "arithmetic"] == ("return self.size + 4", "return self.size - 4")
    assert (9, "statement") not in found, "any use of the object would notice"


def test_keys_stay_when_lines_move():
    before = {each.key for each in changes_of("a.py", SOURCE)}
    assert {each.key for each in changes_of("a.py", "\n\n" + SOURCE)} == before
    assert len(before) == len(changes_of("a.py", SOURCE))


@pytest.mark.parametrize(("line", "lines"), [(4, None), (8, range(9, 10)), (17, range(17, 18)), (20, range(20, 21))])
def test_which_lines_a_test_must_run(line, lines):
    """A default is read by the body, a condition by its own line, and what stands outside of functions by an import."""
    assert lines_to_run(SOURCE, line) == lines


def test_every_change_that_is_set_aside_says_why():
    root = EQUIVALENT.parents[1]
    for each in set_aside():
        lines = [line.strip() for line in (root / each["file"]).read_text(encoding="utf-8").splitlines()]
        assert each["before"] in lines, f"{each['file']} has changed: look at it again"
        assert len(each["reason"]) > 20
        assert each["before"] != each["after"]
