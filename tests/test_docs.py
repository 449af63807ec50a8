"""The documents hold together: their Python is Python, and what they point to is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("demo/**/*.md"))]


def python_of(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def anchors_of(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_compiles_and_links_resolve(document):
    for code in python_of(document):
        ast.parse(code)
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    for link in links:
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = document.parent / path if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


def test_the_dags_of_the_readme_load_as_pasted(airflow_db, tmp_path):
    pytest.importorskip("airflow.sdk")  # Airflow 3
    from airflow.dag_processing.dagbag import DagBag

    (tmp_path / "readme.py").write_text("".join(python_of(ROOT / "README.md")))
    bag = DagBag(tmp_path)
    assert bag.import_errors == {}
    assert {name: dag.task_ids for name, dag in bag.dags.items()} == {
        "shoe": ["generate"],
        "catalogue": ["catalogue.plan", "catalogue.generate", "catalogue.publish"],
    }
