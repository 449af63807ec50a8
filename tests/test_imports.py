"""Parsing a DAG that uses the package must stay cheap: nothing heavy is loaded before a task runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "example_dags").glob("*.py"))

# Airflow itself loads some of these. So: what it loads is loaded first; what comes on top is ours, and so is
# any import that one of our modules makes by name, whether it was loaded before or not.
LOOK = """
import builtins, json, sys
from pathlib import Path

heavy = {"httpx", "PIL", "numpy", "cv2", "boto3", "botocore", "starlette", "uvicorn"}
heavy.add("airflow.providers.amazon")
import airflow.providers.common.compat.sdk as sdk
from airflow.dag_processing.dagbag import DagBag
from airflow.triggers.base import BaseTrigger
sdk.BaseHook, sdk.BaseOperator, sdk.BaseSensorOperator, sdk.DAG, sdk.Param, sdk.conf, sdk.task
empty = Path(sys.argv[1], "empty"); empty.mkdir(exist_ok=True)
DagBag(empty)
before = set(sys.modules)
asked = set()
load = builtins.__import__

def noted(name, globals=None, *rest, **named):
    importer = (globals or {}).get("__name__", "")
    ours = importer.startswith("airflow_provider_bgai") or "example_dags" in (globals or {}).get("__file__", "")
    if ours and any(name == each or name.startswith(each + ".") for each in heavy):
        asked.add(f"{importer}: {name}")
    return load(name, globals, *rest, **named)

builtins.__import__ = noted
failed, dag_files = {}, []
if sys.argv[2] == "modules":
    import importlib
    for name in sys.argv[3:]:
        importlib.import_module(name)
else:
    bag = DagBag(sys.argv[3])
    failed = dict(bag.import_errors)
    dag_files = sorted({Path(dag.fileloc).name for dag in bag.dags.values()})
loaded = {name for name in set(sys.modules) - before if name in heavy}
ours = sorted(name for name in sys.modules if name.startswith("airflow_provider_bgai"))
found = {"loaded": sorted(loaded), "asked": sorted(asked), "failed": failed, "files": dag_files, "ours": ours}
print("\\n" + json.dumps(found))
"""


def look(tmp_path: Path, *arguments: str) -> dict:
    command = [sys.executable, "-c", LOOK, str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_package_and_all_that_dags_import_load_nothing_heavy(tmp_path):
    from airflow_provider_bgai.get_provider_info import get_provider_info

    info = get_provider_info()
    kinds = ("hooks", "operators", "sensors", "triggers")
    modules = [module for kind in kinds for entry in info[kind] for module in entry["python-modules"]]
    others = ["hooks", "hooks.base", "models", "polling", "storage", "exceptions", "imaging.verify", "sandbox"]
    found = look(tmp_path, "modules", *modules, *(f"airflow_provider_bgai.{name}" for name in others))
    assert (found["loaded"], found["asked"]) == ([], [])
    assert set(modules) <= set(found["ours"])


MODULES = 20
"""A module costs a millisecond or two; what a DAG file loads of ours may take 50 ms (``benchmarks.loading``)."""
ROOMS = ("buying", "catalogue", "imaging", "hooks")
"""They are for the time when tasks run."""


def parses_quickly(ours: list[str]) -> bool:
    """Whether of our modules only those are loaded that a DAG is written with, and not many."""
    inside = [name for name in ours if name.split(".")[1:2] and name.split(".")[1] in ROOMS]
    return not inside and len(ours) <= MODULES


def test_whatever_a_dag_imports_loads_few_modules_and_none_that_do_the_work(tmp_path):
    from airflow_provider_bgai.get_provider_info import get_provider_info

    info = get_provider_info()
    written_with = [it for kind in ("operators", "sensors") for entry in info[kind] for it in entry["python-modules"]]
    assert len(written_with) == 5
    for name in (*written_with, "airflow_provider_bgai.task_groups.catalogue"):
        ours = look(tmp_path, "modules", name)["ours"]
        assert name in ours
        assert parses_quickly(ours), ours


def test_all_examples_load_without_errors_and_without_anything_heavy(tmp_path):
    found = look(tmp_path, "dags", str(ROOT / "example_dags"))
    assert found["failed"] == {}
    assert found["files"] == EXAMPLES
    assert EXAMPLES == ["nightly_catalogue.py", "on_demand.py", "submit_sensor_land.py"]
    assert (found["loaded"], found["asked"]) == ([], [])
    assert "airflow_provider_bgai.operators.generate" in found["ours"]
    assert len(found["ours"]) <= MODULES + 4  # three DAGs, with what each is written with


def test_the_package_alone_imports_nothing_but_itself():
    code = "import sys; before = set(sys.modules); import airflow_provider_bgai.get_provider_info; "
    code += "print(sorted(name for name in set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in eval(done.stdout)}
    assert loaded <= {"airflow_provider_bgai", "__future__", "typing"} | set(sys.stdlib_module_names)


def test_the_check_itself_notices_something_heavy(tmp_path):
    dag = tmp_path / "heavy_dag.py"
    dag.write_text("import boto3\nfrom airflow.sdk import DAG\nDAG('heavy')\n")
    found = look(tmp_path, "dags", str(dag))
    assert "boto3" in found["loaded"]


def test_what_lies_below_the_operators_is_imported_without_airflow(tmp_path):
    """But for the connections (`hooks/`) and S3, which are handed in."""
    rooms = ["buying", "catalogue", "imaging", "polling", "models", "layout", "lines", "sources", "web"]
    code = f"""
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "airflow":
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
for room in {rooms}:
    module = importlib.import_module(f"airflow_provider_bgai.{{room}}")
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(found.name)
print(len([name for name in sys.modules if name.startswith("airflow_provider_bgai.")]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
