"""The documentation says what the code says."""

import re
from pathlib import Path

import pytest

from roster.recipes import RECIPES
from roster.recipes.table import page

ROOT = Path(__file__).parents[1]


def test_method_table_is_up_to_date():
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == page(), (
        "run: python -m roster.recipes.table > docs/methods.md"
    )


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_every_page_has_its_place_in_the_site():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        assert f"- {path.relative_to(ROOT / 'docs')}\n" in settings, "name it under nav in mkdocs.yml"


@pytest.mark.parametrize("slug", RECIPES)
def test_evidence_exists_where_a_claim_is_said_to_be_shown(slug):
    recipe = RECIPES[slug]
    if recipe.claim is None:
        assert recipe.claim_shown is None
    assert (ROOT / recipe.evidence).exists(), recipe.evidence
