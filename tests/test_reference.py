"""The texts that are generated: what they say is what the program declares."""

import re
from pathlib import Path

from jaxloop.analysis.columns import reference
from jaxloop.systems.logic.columns import COLUMNS

ROOT = Path(__file__).parent.parent


def test_the_columns_in_the_reference_are_those_that_are_declared():
    """Catches a column whose meaning changes in one place only. Write the new table between the two marks."""
    text = (ROOT / "notebooks/reference.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- columns -->\n(.*?)<!-- /columns -->", text, re.DOTALL)
    assert table == reference(COLUMNS)


def test_links_lead_somewhere():
    """Catches a link to a section or a file that has been moved."""
    for path in (ROOT / "README.md", *(ROOT / "notebooks").glob("*.md"), *(ROOT / "jaxloop").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("http"):
                continue
            name, _, anchor = target.partition("#")
            there = path.parent / name if name else path
            assert there.exists(), f"{path}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
                assert anchor in anchors, f"{path}: {target}"
