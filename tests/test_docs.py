"""What the documents quote is what there is: every block of code in them is run, from the page itself.

Their links are checked where the site is built: ``make docs``. The blocks of ``docs/new-vendor.md``, the files of one
package, are run by ``test_new_vendor.py``.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import runpy
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from airflow_provider_bgai.catalogue import audit, cli
from airflow_provider_bgai.catalogue.recipe import load_recipe
from airflow_provider_bgai.exceptions import BY_REASON
from airflow_provider_bgai.get_provider_info import ROWS
from airflow_provider_bgai.sandbox import cli as sandbox_cli

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airflow_provider_bgai"
README = ROOT / "README.md"
ELSEWHERE = {"README.md", "docs/new-vendor.md"}
"""Pages whose blocks have tests of their own."""


def blocks(page: Path, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def all_blocks(*languages: str) -> list:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    names = {page: str(page.relative_to(ROOT)) for page in sorted(pages)}
    return [
        pytest.param(text, id=f"{name}-{number}")
        for page, name in names.items()
        if name not in ELSEWHERE
        for number, text in enumerate(blocks(page, *languages))
    ]


def dag_id_of(code: str) -> str:
    return re.findall(r'DAG\(\s*"(\w+)"', code)[0]


def test_no_block_is_left_out():
    """Of text, such as a tree of files, nothing can be run."""
    named = {"python", "yaml", "sh", "text"}
    count = sum(page.read_text().count("\n```") for page in ROOT.glob("docs/**/*.md") if page.name != "new-vendor.md")
    assert count == 2 * len([each for each in all_blocks(*named) if each.id.startswith("docs/")])


@pytest.mark.parametrize("code", all_blocks("python"))
def test_python_runs_as_pasted(code, tmp_path, monkeypatch, product):
    (tmp_path / "picture.png").write_bytes(product)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "<page>", "exec"), names)
    for name, function in names.items():
        if name.startswith("test_"):
            function(monkeypatch)


@pytest.mark.parametrize("text", all_blocks("yaml"))
def test_a_recipe_is_one(text, storage):
    assert load_recipe(text, storage).prompt


@pytest.mark.parametrize("text", all_blocks("sh"))
def test_a_command_is_understood(text):
    for line in text.replace(",\n", ",").splitlines():
        understand(*shlex.split(line, comments=True))


def understand(*words: str) -> None:
    match words:
        case ["make", target]:
            subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        case ["bgai-ledger", *arguments]:
            parse(cli._parser(), arguments)
        case ["bgai-audit", *arguments]:
            parse(audit._parser(), arguments)
        case ["bgai-sandbox", *arguments]:
            parse(sandbox_cli._parser(), arguments)
        case ["airflow", *arguments]:
            from airflow.cli.cli_parser import get_parser

            parse(get_parser(), arguments)
        case ["python", "-m", module, *_]:
            assert find_spec(module)
        case ["pip", "install", "." | ".[sandbox]"] | [".ci/run"] | ["exiftool", *_]:
            pass
        case ["export", assignment] | [assignment]:
            name, _, value = assignment.partition("=")
            assert name.startswith("AIRFLOW_CONN_")
            assert json.loads(value)["conn_type"] in [row.conn_type for row in ROWS]
        case _:
            pytest.fail(f"nobody knows what this does: {words}")


def parse(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    parser.parse_args(arguments)  # which exits where they are wrong


def messages() -> set[str]:
    """All texts of the package, with `…` for what is filled in."""
    found = {f"Not retried ({reason})" for reason in BY_REASON}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
    return found


def test_each_message_that_is_explained_is_one_of_ours():
    page, known = (ROOT / "docs" / "troubleshooting.md").read_text(), messages()
    quoted = [text for cell in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for text in re.findall("`(.*?)`", cell)]
    assert len(quoted) > 60
    assert [text for text in quoted if not any(text.strip("… ") in message for message in known)] == []


def test_the_dashboard_has_the_panels_of_its_page_and_asks_for_metrics_that_there_are():
    """That the page names what is told is seen where tasks tell it: tests/operators/test_metrics.py."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    told = {name.replace(".", "_") for name in re.findall(r"^\| `(bgai\.\w+)` \|", page, re.MULTILINE)}
    named = dict(re.findall(r"^\| ([^|`]+) \| (`.*`[^|`]*) \|$", page.partition("### A dashboard")[2], re.MULTILINE))
    panels = json.loads((ROOT / "docs" / "grafana.json").read_text())["panels"]
    asked = {each["title"]: [target["expr"] for target in each["targets"]] for each in panels}
    assert asked == {title: re.findall("`([^`]+)`", queries) for title, queries in named.items()}
    assert {name for queries in asked.values() for query in queries for name in re.findall(r"bgai_\w+", query)} <= told


def test_each_file_that_is_named_exists():
    folders = ("airflow_provider_bgai", "benchmarks", "demo", "docs", "example_dags", "tests")
    paths = [f"/{path.relative_to(ROOT)}" for folder in folders for path in (ROOT / folder).rglob("*.py")]
    pages = [page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if page.name != "new-vendor.md"]
    named = {name for page in pages for name in re.findall(r"`([\w./-]+\.py)`", page.read_text())}
    assert {name for name in named if not any(path.endswith(f"/{name}") for path in paths)} == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_tables_of_a_vendor_s_page_are_what_its_hook_states(row):
    drawing = runpy.run_path(str(ROOT / "docs" / "draw_vendors.py"))
    page = drawing["page_of"](row).read_text()
    assert drawing["draw"](row) in page
    assert page == drawing["drawn"](row)


@pytest.fixture
def shop(s3, storage, product):
    """The bucket that the README's DAGs read, with what they find there."""
    s3.client().create_bucket(Bucket="shop")
    storage.put("s3://shop/cutouts/shoe.png", product)
    storage.put("s3://shop/products.csv", b"sku,image,title\nSHOE,cutouts/shoe.png,Shoe\n", content_type="text/csv")
    yield storage
    storage.delete_all(storage.list_uris("s3://shop/"))
    s3.client().delete_bucket(Bucket="shop")


@pytest.mark.parametrize("code", [pytest.param(code, id=dag_id_of(code)) for code in blocks(README, "python")])
def test_a_dag_of_the_readme_runs_when_pasted_alone(code, airflow_db, box, connections, shop, tmp_path, monkeypatch):
    """Airflow runs what is in its own folder, so that is where the paste goes."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 2.11
        from airflow.models.dagbag import DagBag  # type: ignore[no-redef]

    (tmp_path / "pasted.py").write_text(code)
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(tmp_path))
    bag = DagBag(tmp_path)
    assert bag.import_errors == {}
    ((dag_id, dag),) = bag.dags.items()
    assert dag_id == dag_id_of(code)
    assert str(dag.test().state) == "success"
    assert box.images_charged() == box.images_charged("picwish") == 1
    landed = [each.uri for each in shop.list("s3://shop/pictures/") if "/_bgai/" not in each.uri]
    assert landed == [f"s3://shop/pictures/{'shoe-1' if dag_id == 'shoe' else 'SHOE'}.png"]
