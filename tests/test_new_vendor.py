"""A vendor from outside the package, made of nothing but the code of docs/new-vendor.md: one hook, one class of the
sandbox, one row."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import jsonschema
import pytest

from airflow_provider_bgai.exceptions import AuthenticationError, InvalidRequestError, UnknownOutcomeError
from airflow_provider_bgai.get_provider_info import ROWS, all_rows, connection_type, find_row
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.sandbox import Sandbox
from airflow_provider_bgai.sandbox.faults import COMMON
from airflow_provider_bgai.storage import Storage
from demo.services import S3Service
from tests.catalogue.nights import Catalogue
from tests.conftest import PRODUCT, ROOT

DOCUMENT = ROOT / "docs" / "new-vendor.md"


def code() -> dict[str, str]:
    """The document's blocks by the file that the sentence before each names."""
    pattern = r"^`([\w./]+)`:[^`]*(?:`[^`]+`[^`]*)*?\n\n```(?:python|toml)\n(.*?)^```"
    return dict(re.findall(pattern, DOCUMENT.read_text(), re.DOTALL | re.MULTILINE))


def install(folder: Path, name: str, **groups: dict[str, str]) -> None:
    """What an installer leaves of a distribution with these entry points, by group."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [line for group, names in groups.items() for line in (f"[{group}]", *(f"{k} = {names[k]}" for k in names))]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """``on_path(folder)``: as if what lies there were installed."""
    yield lambda folder: monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy_backgrounds"]:
        del sys.modules[name]


@pytest.fixture
def toy(tmp_path: Path, on_path: Callable[[Path], None]) -> Path:
    """The vendor of the document, installed; the folder it is in."""
    files = code()
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    install(tmp_path, project["name"], **project["entry-points"])
    on_path(tmp_path)
    return tmp_path


@pytest.fixture
def box(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox(latency=0) as box:
        connection = box.connection("toy")
        connection["extra"]["requests_per_minute"] = 60_000
        monkeypatch.setenv("AIRFLOW_CONN_TOY_DEFAULT", json.dumps(connection))
        yield box


def test_the_document_makes_one_hook_one_class_of_the_sandbox_and_one_row():
    files = code()
    assert set(files) == {
        "toy_backgrounds/__init__.py",
        "toy_backgrounds/hook.py",
        "toy_backgrounds/sandbox.py",
        "pyproject.toml",
    }
    classes = {name: re.findall(r"^class (\w+)\((\w+)\)", text, re.MULTILINE) for name, text in files.items()}
    assert [found for found in classes.values() if found] == [[("ToyHook", "BackgroundHook")], [("Toy", "Vendor")]]


def test_a_night_with_it_is_planned_generated_and_published(box: Sandbox, s3: S3Service, storage: Storage):
    catalogue = Catalogue(storage, f"s3://{s3.bucket}/toy", box)
    catalogue.add("TEA-1", PRODUCT.read_bytes())
    recipe = {"prompt": "{{ title }} on oak"}
    plan, results = catalogue.night(recipe, ["toy"])
    assert (plan.calls, [(result.sku, result.outcome) for result in results]) == (1, [("TEA-1", "bought")])
    assert [item.uri for item in storage.list(f"{catalogue.root}/TEA-1")]
    assert box.bill() == dict.fromkeys(box.vendors, 0) | {"toy": 1}
    assert catalogue.bounds() == {"toy": (1, 0)}
    plan, results = catalogue.night(recipe, ["toy"])
    assert (plan.calls, results, box.images_charged()) == (0, [], 1)


def test_what_it_does_not_take_is_refused_before_anything_is_sent(box: Sandbox):
    for fields, problem in (
        ({"template": 5}, "template=5: the vendor has no such parameter"),
        ({"count": 2}, "count=2: at most 1 a call"),
        ({"prompt": None}, "prompt=None: Toy needs a prompt"),
    ):
        with pytest.raises(InvalidRequestError, match=re.escape(problem)):
            get_hook("toy_default").generate(BackgroundRequest(PRODUCT.read_bytes(), **({"prompt": "a"} | fields)))
    assert box.requests == []


def test_it_suffers_what_all_vendors_suffer(box: Sandbox):
    request = BackgroundRequest(PRODUCT.read_bytes(), "on oak")
    for fault, charged in (("html_200", 0), ("drop_after_charge", 1)):
        before = box.images_charged("toy")
        box.fault("toy", fault)
        with pytest.raises(UnknownOutcomeError):
            get_hook("toy_default").generate(request)
        assert box.images_charged("toy") - before == charged
    for fault in COMMON:
        box.fault("toy", fault)  # each makes sense for it
    with pytest.raises(ValueError, match="makes no sense for toy"):
        box.fault("toy", "expired_url")


def test_airflow_learns_its_connection_type_from_the_same_row(toy: Path):
    import airflow

    (entry,) = entry_points(group="apache_airflow_provider", name="provider_info").select(module="toy_backgrounds")
    info = entry.load()()
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(info)
    row = find_row("bgai_toy")
    assert row is not None
    assert info["connection-types"] == [connection_type(row)]
    script = "from airflow.providers_manager import ProvidersManager\n"
    script += "from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime\n"
    script += "forms = ProvidersManager().connection_form_widgets\n"
    script += "print(ProvidersManagerTaskRuntime().hooks['bgai_toy'], 'extra__bgai_toy__style' in forms)"
    environment = os.environ | {"PYTHONPATH": f"{toy}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert "hook_class_name='toy_backgrounds.hook.ToyHook'" in done.stdout, done.stderr
    assert done.stdout.endswith(" True\n")


def test_the_command_offers_its_connection_and_faults(toy: Path):
    environment = os.environ | {"PYTHONPATH": f"{toy}{os.pathsep}{ROOT}", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "airflow_provider_bgai.sandbox", "--port", "0", "--fault", "toy.slow=0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(len(ROWS) + 4)]
        process.terminate()
    assert lines[0].endswith(f"for all {len(ROWS) + 1} vendors. Connections for Airflow:\n")
    assert any(line.startswith("export AIRFLOW_CONN_TOY_DEFAULT=") for line in lines)


def test_a_row_and_its_hook_are_the_same_vendor(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    hook_class = type(get_hook("toy_default"))
    monkeypatch.setattr(hook_class, "vendor", "joy")
    with pytest.raises(ValueError, match="the row of toy leads to toy_backgrounds.hook.ToyHook, which is 'joy'"):
        get_hook("toy_default")


def test_a_row_and_its_class_of_the_sandbox_are_the_same_vendor(box: Sandbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules["toy_backgrounds.sandbox"].Toy, "name", "joy")
    with pytest.raises(ValueError, match="the row of toy leads to toy_backgrounds.sandbox.Toy, whose name is 'joy'"):
        Sandbox()


def test_a_connection_of_a_vendor_that_nobody_has_names_all_there_are(toy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW_CONN_MINE", '{"conn_type": "bgai_nobody"}')
    types = ", ".join(sorted(["bgai_toy", *(row.conn_type for row in ROWS)]))
    with pytest.raises(AuthenticationError, match=re.escape(f"has type 'bgai_nobody'; it must be one of {types}")):
        get_hook("mine")


@pytest.mark.parametrize(
    ("name", "target", "problem"),
    [
        ("picwish", "toy_backgrounds:ROW", "entry point 'picwish' of bgai.vendors leads to VendorRow(name='toy'"),
        ("other", "toy_backgrounds:ROW", "entry point 'other' of bgai.vendors leads to VendorRow(name='toy'"),
        ("toy", "toy_backgrounds:ROW", "two packages name the vendor toy"),
        ("other", "toy_backgrounds.hook:__doc__", "entry point 'other' of bgai.vendors leads to None"),
        ("other", "toy_backgrounds:get_provider_info", "entry point 'other' of bgai.vendors leads to {"),
    ],
)
def test_a_wrong_entry_point_is_told(
    toy: Path, tmp_path: Path, on_path: Callable[[Path], None], name: str, target: str, problem: str
):
    install(tmp_path / "second", "second", **{"bgai.vendors": {name: target}})
    on_path(tmp_path / "second")
    with pytest.raises(ValueError, match=re.escape(problem)):
        all_rows()
    assert find_row("bgai_picwish") in ROWS  # whatever others say
