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
TESTS = [path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
ALL_DATA = {"imaging/xmp.py"}
"""Half of it is the structure of file formats."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_read_in_one_sitting(path):
    text = path.read_text()
    if str(path.relative_to(PACKAGE)) not in ALL_DATA:
        assert len(text.splitlines()) <= 450
    classes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    assert {each.name for each in classes if (each.end_lineno or 0) - each.lineno >= 250} == set()


ELSEWHERE = {
    "hooks/vendor.py": "hooks/test_requests.py",
    "imaging/fidelity/copies.py": "imaging/fidelity/test_outside.py",
    "imaging/fidelity/grown.py": "imaging/fidelity/test_outside.py",
    "imaging/fidelity/parts.py": "imaging/fidelity/test_outside.py",
    "imaging/fidelity/rim.py": "imaging/fidelity/test_outside.py",
    "imaging/fidelity/search.py": "imaging/fidelity/test_compare.py",
    "imaging/fidelity/surroundings.py": "imaging/fidelity/test_outside.py",
    "imaging/profile.py": "imaging/test_metadata.py",
    "imaging/publishable.py": "imaging/test_kinds.py",
    "operators/_metrics.py": "operators/test_metrics.py",
    "sandbox/accidents.py": "sandbox/test_faults.py",
    "sandbox/vendor.py": "sandbox/test_server.py",
}
"""Where the tests are of modules that have none of their own name, and that no test imports."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_is_named_by_a_test(path):
    if path.name.startswith("__"):
        return
    name = path.relative_to(PACKAGE)
    module = ".".join([PACKAGE.name, *name.with_suffix("").parts])
    parent, _, last = module.rpartition(".")
    named = re.compile(rf"{re.escape(module)}\b|from {re.escape(parent)} import .*\b{last}\b")
    mirrored = (ROOT / "tests" / name.parent / f"test_{last}.py").exists()
    imported = mirrored or any(named.search(text) for text in TESTS)
    assert imported != (str(name) in ELSEWHERE)
    assert imported or (ROOT / "tests" / ELSEWHERE[str(name)]).exists()


def test_a_folder_with_tests_is_a_folder_of_the_package():
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert {str(folder) for folder in folders if not (PACKAGE / folder / "__init__.py").exists()} == set()


def test_a_vendor_is_named_in_its_own_files_and_in_its_row_alone():
    names = re.compile("|".join(row.name for row in ROWS), re.IGNORECASE)
    own = {PACKAGE / folder / f"{row.name}.py" for row in ROWS for folder in ("hooks", "sandbox")}
    elsewhere = {path for path in FILES if names.search(path.read_text())} - own
    assert elsewhere == {PACKAGE / "get_provider_info.py"}


def test_picture_and_list_of_the_house_are_what_the_package_says_and_no_arrow_goes_back_up():
    import runpy

    house = runpy.run_path(str(ROOT / "docs" / "draw_house.py"))
    assert (ROOT / "docs" / "house.svg").read_text() == house["draw"]()
    assert house["PAGE"].read_text() == house["listed"]()
    floors = house["floors"](house["imports"]())
    at = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    order = ["task_groups", "operators", "catalogue", "buying", "hooks", "storage", "layout"]
    assert sorted(order, key=at.__getitem__) == order
    assert at["imaging"] > at["buying"]
    assert at["sources"] > at["buying"]
