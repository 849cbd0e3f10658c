"""What is listed without reading a weight is what a full reading finds."""

import json
import shutil

import pytest

from roster import RosterError, pocket, smol
from roster.library import Library
from roster.listing import CARD, CONFIG, WEIGHTS, listed


@pytest.mark.parametrize("folder", [pocket.experts_path(), smol.adapters_path()], ids=["pocket", "real"])
def test_the_list_says_what_reading_finds(folder):
    library = Library.read(folder)
    found = listed(folder)
    assert [each.name for each in found] == library.names
    for each in found:
        adapter = library[each.name]
        updates = adapter.modules.values()
        assert sorted(each.ranks) == sorted(update.A_RD.shape[0] for update in updates)
        assert sorted(each.scales) == pytest.approx(sorted(update.scale for update in updates))
        assert each.parameters == sum(update.A_RD.numel() + update.B_OR.numel() for update in updates)
        assert (each.task, each.weights_hash) == (adapter.card.task, adapter.card.weights_hash)


@pytest.fixture
def one(tmp_path):
    shutil.copytree(pocket.experts_path() / "sort", tmp_path / "sort")
    return tmp_path


def test_scales_follow_patterns(one):
    config = json.loads((one / "sort" / CONFIG).read_text())
    config |= {"alpha_pattern": {"q_proj": 64}, "use_rslora": True}
    (one / "sort" / CONFIG).write_text(json.dumps(config))
    (one / "sort" / CARD).unlink()
    scales = sorted(update.scale for update in Library.read(one)["sort"].modules.values())
    assert sorted(listed(one)[0].scales) == pytest.approx(scales)
    assert len(set(scales)) == 2


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (CONFIG, "{nonsense", "cannot be read"),
        (CONFIG, "[]", "must hold an object, not a list"),
        (CONFIG, '{"peft_type": "LORA", "lora_alpha": "much"}', "gives .* no scale"),
        (CARD, "[]", "must hold an object"),
        (WEIGHTS, "too short", "is damaged"),
    ],
)
def test_what_cannot_be_read_is_one_error(one, name, text, says):
    (one / "sort" / name).write_text(text)
    with pytest.raises(RosterError, match=says):
        listed(one)
