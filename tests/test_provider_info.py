"""What Airflow learns of the package, checked with Airflow's own schema and loaders."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import airflow
import jsonschema
import pytest

import airflow_provider_bgai
from airflow_provider_bgai.get_provider_info import ROWS, get_provider_info, system_of
from airflow_provider_bgai.hooks.base import BackgroundHook
from tests.conftest import VENDORS

INFO = get_provider_info()
TYPES = {entry["connection-type"]: entry for entry in INFO["connection-types"]}
COMMON = {
    "requests_per_minute",
    "max_concurrency",
    "timeout",
    "price_per_image",
    "currency",
    "allow_private_hosts",
}
OWN = {"photoroom": {"model_version"}, "katalis": {"auth_header", "auth_prefix"}}


def named_modules() -> list[str]:
    kinds = ("hooks", "operators", "sensors", "triggers")
    return [module for kind in kinds for entry in INFO[kind] for module in entry["python-modules"]]


def hook_of(vendor: str) -> type[BackgroundHook]:
    module, _, name = TYPES[f"bgai_{vendor}"]["hook-class-name"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_it_is_valid_against_airflows_own_schema():
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(INFO)
    assert INFO["package-name"] == "airflow-provider-bgai"


def test_airflow_finds_it_by_its_entry_point():
    (found,) = [entry for entry in entry_points(group="apache_airflow_provider") if "bgai" in entry.value]
    assert found.load()() == INFO


@pytest.mark.parametrize("module", named_modules())
def test_every_module_it_names_exists(module):
    assert importlib.import_module(module).__name__ == module


# What Airflow knows a key of its schema by. A key that is none of these is told here first, with what stands behind it.
TEXTS = {"package-name", "name", "description", "integrations"}
MODULES = {"hooks", "operators", "sensors", "triggers"}
CLASSES = {"connection-types": "hook-class-name", "plugins": "plugin-class", "task-decorators": "class-name"}
PATHS = {"extra-links", "notifications"}


@pytest.mark.parametrize("key", sorted(INFO))
def test_behind_each_key_stands_what_it_names(key):
    assert INFO[key]
    if key in MODULES:
        paths = [f"{module}.__doc__" for entry in INFO[key] for module in entry["python-modules"]]
    elif key in CLASSES:
        paths = [entry[CLASSES[key]] for entry in INFO[key]]
    elif key in PATHS:
        paths = list(INFO[key])
    else:
        assert key in TEXTS
        return
    for path in paths:
        module, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(module), name)


def test_every_module_of_the_package_with_hooks_operators_sensors_or_triggers_is_named():
    package = Path(airflow_provider_bgai.__file__).parent
    for kind, not_for_users in {
        "hooks": {"base", "channel", "connection", "images", "meaning", "results", "vendor", "waiting"},
        "operators": {"retries"},
        "sensors": set(),
        "triggers": set(),
    }.items():
        there = {path.stem for path in (package / kind).glob("[!_]*.py")} - not_for_users
        named = {module.rpartition(".")[2] for entry in INFO[kind] for module in entry["python-modules"]}
        assert named == there


def test_the_links_and_the_plugin_it_names_are_those_that_exist():
    from airflow_provider_bgai.ui import links
    from airflow_provider_bgai.ui.plugin import BgaiPlugin

    there = {cls for cls in vars(links).values() if isinstance(cls, type) and issubclass(cls, links.TaskLink)}
    assert set(INFO["extra-links"]) == {f"{cls.__module__}.{cls.__name__}" for cls in there - {links.TaskLink}}
    assert {type(link) for link in links.PICTURES + links.RUN} == there - {links.TaskLink}
    path = f"{BgaiPlugin.__module__}.{BgaiPlugin.__name__}"
    assert INFO["plugins"] == [{"name": BgaiPlugin.name, "plugin-class": path}]
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert declared["project"]["entry-points"]["airflow.plugins"] == {"bgai": ":".join(path.rsplit(".", 1))}


def test_the_names_that_users_rely_on_stay():
    assert {conn_type: entry["hook-class-name"] for conn_type, entry in TYPES.items()} == {
        "bgai_picwish": "airflow_provider_bgai.hooks.picwish.PicWishHook",
        "bgai_photoroom": "airflow_provider_bgai.hooks.photoroom.PhotoroomHook",
        "bgai_imagine": "airflow_provider_bgai.hooks.imagine.ImagineHook",
        "bgai_katalis": "airflow_provider_bgai.hooks.katalis.KatalisHook",
        "bgai_gptge": "airflow_provider_bgai.hooks.gptge.GptGeHook",
    }
    assert INFO["description"].endswith(": PicWish, Photoroom, Imagine (Vyro), Katalis and gpt.ge.")


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_connection_type_agrees_with_its_hook(vendor):
    hook, entry = hook_of(vendor), TYPES[f"bgai_{vendor}"]
    assert (hook.vendor, hook.default_conn_name) == (vendor, f"{vendor}_default")
    assert (hook.conn_type, hook.hook_name) == (entry["connection-type"], entry["hook-name"])
    assert hook.conn_name_attr == "conn_id"
    placeholders = entry["ui-field-behaviour"]["placeholders"]
    assert placeholders["host"] == hook.base_url
    rate = entry["conn-fields"]["requests_per_minute"]["description"]
    assert f"(default {hook.default_requests_per_minute:g})" in rate


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_form_asks_for_an_api_key_and_the_vendors_own_settings(vendor):
    entry = TYPES[f"bgai_{vendor}"]
    assert entry["ui-field-behaviour"]["relabeling"]["password"] == "API key"
    assert "password" not in entry["ui-field-behaviour"]["hidden-fields"]
    assert set(entry["conn-fields"]) == COMMON | OWN.get(vendor, set())
    assert all(field["label"] and field["description"] for field in entry["conn-fields"].values())


def test_airflow_loads_the_hooks():
    try:
        from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime as Manager
    except ImportError:  # before Airflow 3.2
        from airflow.providers_manager import ProvidersManager as Manager  # type: ignore[assignment]

    hooks = Manager().hooks
    for vendor in VENDORS:
        found = hooks[f"bgai_{vendor}"]
        assert found is not None
        assert found.hook_class_name == TYPES[f"bgai_{vendor}"]["hook-class-name"]
        assert found.connection_testable


# In a process of its own, like the server that draws it: before 3.2 what stands in for WTForms must be there first.
FORMS = """
import json
try:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
except ImportError:  # Airflow 2.11
    from airflow.providers_manager import ProvidersManager
    manager = ProvidersManager()
    titles = {name: each["relabeling"].get("password") for name, each in manager.field_behaviours.items()}
    fields = [name.split("__")[1:] for name in manager.connection_form_widgets]
    forms = {title: [titles[title], [name for kind, name in fields if kind == title]] for title in titles}
else:
    forms = {
        each.connection_type: [each.standard_fields.password.title, list(each.extra_fields)]
        for each in HookMetaService.hook_meta_data()
        if each.connection_type.startswith("bgai_")
    }
print("\\n" + json.dumps(forms))
"""


def test_airflow_draws_the_forms():
    done = subprocess.run([sys.executable, "-c", FORMS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    forms = json.loads(done.stdout.splitlines()[-1])
    for vendor in VENDORS:
        title, fields = forms[f"bgai_{vendor}"]
        assert (title, set(fields)) == ("API key", COMMON | OWN.get(vendor, set()))


@pytest.fixture
def form_library(monkeypatch) -> dict[str, type]:
    """WTForms as Airflow 3 stands in for it: the four kinds of field that a hook's form may have, and no other."""
    service = pytest.importorskip("airflow.api_fastapi.core_api.services.ui.connections", reason="2.11 has WTForms")
    HookMetaService = service.HookMetaService
    names = ("StringField", "IntegerField", "BooleanField", "PasswordField")
    fields = {name: getattr(HookMetaService, f"Mock{name}") for name in names}
    babel, wtforms, validators = ModuleType("flask_babel"), ModuleType("wtforms"), ModuleType("wtforms.validators")
    vars(babel).update(lazy_gettext=str)
    vars(validators).update(Optional=HookMetaService.MockOptional)
    vars(wtforms).update(fields, validators=validators)
    for module in (babel, wtforms, validators):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return fields


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_form_of_older_airflow_has_the_same_fields(form_library, vendor):
    """Before 3.2 Airflow asks the hook, and takes nothing but these four kinds of field."""
    widgets = hook_of(vendor).get_connection_form_widgets()
    declared = TYPES[f"bgai_{vendor}"]["conn-fields"]
    assert {name: (field.param.description, field.param.schema["title"]) for name, field in widgets.items()} == {
        name: (field["description"], field["label"]) for name, field in declared.items()
    }
    assert {type(field) for field in widgets.values()} <= set(form_library.values())
    behaviour = hook_of(vendor).get_ui_field_behaviour()
    assert {name.replace("_", "-"): value for name, value in behaviour.items()} == TYPES[f"bgai_{vendor}"][
        "ui-field-behaviour"
    ]


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("method", ["get_connection_form_widgets", "get_ui_field_behaviour"])
def test_older_airflow_finds_the_form_in_the_hooks_own_class(vendor, method):
    """Before 3.2 it looks into the class itself and passes over what is inherited."""
    assert method in vars(hook_of(vendor))


def test_every_vendor_names_its_system_in_full_and_an_unknown_one_itself():
    for row in ROWS:
        assert row.system.startswith(f"{row.label}, ")
        assert system_of(row.name) == row.system
    assert system_of("nobody") == "nobody"
