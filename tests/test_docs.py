"""What the documents quote is what there is. Their links are checked where the site is built: `make docs`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]


def python_of(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_compiles(document):
    for code in python_of(document):
        ast.parse(code)


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
