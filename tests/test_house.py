"""The house: rooms small enough to be read, arrows one way, vendors' names in the vendors' own files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import airflow_provider_bgai
from airflow_provider_bgai.get_provider_info import ROWS

ROOT = Path(__file__).parents[1]
PACKAGE = Path(airflow_provider_bgai.__path__[0])
FILES = sorted(PACKAGE.rglob("*.py"))
ALL_DATA = {"imaging/xmp.py"}
"""Half of it is the structure of file formats."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting(path):
    text = path.read_text()
    if str(path.relative_to(PACKAGE)) not in ALL_DATA:
        assert len(text.splitlines()) <= 450
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    assert {each.name for each in classes if (each.end_lineno or 0) - each.lineno >= 250} == set()


def test_a_vendor_is_named_in_its_own_files_and_in_its_row_alone():
    names = re.compile("|".join(row.name for row in ROWS), re.IGNORECASE)
    own = {PACKAGE / folder / f"{row.name}.py" for row in ROWS for folder in ("hooks", "sandbox")}
    elsewhere = {path for path in FILES if names.search(path.read_text())} - own
    assert elsewhere == {PACKAGE / "get_provider_info.py"}


def test_the_picture_of_the_house_is_what_the_imports_say_and_no_arrow_goes_back_up():
    import runpy

    house = runpy.run_path(str(ROOT / "docs" / "draw_house.py"))
    assert (ROOT / "docs" / "house.svg").read_text() == house["draw"]()
    floors = house["floors"](house["imports"]())
    at = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    order = ["task_groups", "operators", "catalogue", "buying", "hooks", "storage", "layout"]
    assert sorted(order, key=at.__getitem__) == order
    assert at["imaging"] > at["buying"]
    assert at["sources"] > at["buying"]
