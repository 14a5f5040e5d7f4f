"""The texts that are generated: what they say is what the program declares."""

import ast
import re
import tomllib
from pathlib import Path

from jaxloop.analysis.columns import OF_REMEDIES, reference
from jaxloop.systems.gaussian import columns as gaussian
from jaxloop.systems.logic import columns as logic

ROOT = Path(__file__).parent.parent


def test_the_columns_in_the_reference_are_those_that_are_declared():
    """Catches a column whose meaning changes in one place only. Write the new table between the two marks."""
    text = (ROOT / "notebooks/reference.md").read_text(encoding="utf-8")
    declared = {"columns": logic.COLUMNS.declared, "gaussian": gaussian.COLUMNS.declared, "remedies": OF_REMEDIES}
    for mark, columns in declared.items():
        (table,) = re.findall(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", text, re.DOTALL)
        assert table == reference(columns)


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


def map_of_the_house() -> str:
    """Every folder and file of the package with the first line of its docstring, the uppermost floor first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (floors,) = (one["layers"] for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    package, lines = ROOT / "jaxloop", []

    def tell(path: Path, depth: int) -> None:
        source = path / "__init__.py" if path.is_dir() else path
        first_line = (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        name = f"{path.name}/" if path.is_dir() else path.name
        lines.append(f"{'  ' * depth}- `{name}` {first_line[0].lower()}{first_line[1:].rstrip('.')}")
        if path.is_dir():
            inside = [one for one in path.iterdir() if one.suffix == ".py" or (one / "__init__.py").exists()]
            for one in sorted(inside, key=lambda one: (one.is_dir(), one.name)):
                if one.name != "__init__.py":
                    tell(one, depth + 1)

    for name in (name for floor in floors for name in floor.split(" | ")):
        tell(package / name if (package / name).is_dir() else package / f"{name}.py", 0)
    return "\n".join(lines) + "\n"


def test_the_map_has_every_file():
    """Catches a file that is on no map, or says another thing there. Write the new map between the two marks."""
    text = (ROOT / "jaxloop/README.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"<!-- map -->\n(.*?)<!-- /map -->", text, re.DOTALL)
    assert found == map_of_the_house()
