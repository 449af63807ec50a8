"""What importing an operator, and parsing each example DAG, costs beyond Airflow's own imports.

Each in a process of its own, twice: the first tells which modules of others are loaded; the second loads those before
it looks at the clock. Processor time, the best of three; beyond the limit it fails.
"""

from __future__ import annotations

import gc
import importlib
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 50  # ms
TRIES = 3
OURS = ("airflow_provider_bgai", "benchmarks", "__main__")
EXAMPLES = Path(__file__).parents[1] / "example_dags"


def load(what: str) -> None:
    """Import a module, or run a DAG file."""
    if what.endswith(".py"):
        runpy.run_path(what)
    else:
        importlib.import_module(what)


def look(what: str, before: list[str]) -> tuple[float, list[str]]:
    """Milliseconds, once those modules are loaded; and what modules of others there are afterwards."""
    command = [sys.executable, "-m", "benchmarks.loading", "--look", what]
    done = subprocess.run(command, input=json.dumps(before), stdout=subprocess.PIPE, text=True, check=True)
    took, names = json.loads(done.stdout.splitlines()[-1])
    return took, names


def looked_at(what: str) -> None:
    """The process of its own."""
    for name in json.load(sys.stdin):
        try:
            importlib.import_module(name)
        except ImportError:  # a name that is no module by itself
            continue
    # A full garbage collection walks all of Airflow's own heap, which is not what is measured here.
    gc.collect()
    gc.freeze()
    began = time.process_time()
    load(what)
    took = 1000 * (time.process_time() - began)
    print("\n" + json.dumps((took, [name for name in sys.modules if name.partition(".")[0] not in OURS])))


def main() -> int:
    from airflow_provider_bgai.get_provider_info import get_provider_info

    info = get_provider_info()
    modules = [it for kind in ("operators", "sensors") for entry in info[kind] for it in entry["python-modules"]]
    modules.append("airflow_provider_bgai.task_groups.catalogue")
    slowest = 0.0
    for what in [*modules, *map(str, sorted(EXAMPLES.glob("*.py")))]:
        _, others = look(what, [])
        took = min(look(what, others)[0] for _ in range(TRIES))
        slowest = max(slowest, took)
        print(f"{Path(what).name if what.endswith('.py') else what:55} {took:5.0f} ms", flush=True)
    print(f"the slowest: {slowest:.0f} ms (limit {LIMIT})", flush=True)
    return 0 if slowest <= LIMIT else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--look"]:
        looked_at(sys.argv[2])
    else:
        sys.exit(main())
