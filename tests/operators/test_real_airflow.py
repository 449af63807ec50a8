"""What only a running Airflow can show: the triggerer, its restart, a killed worker, and what is written down."""

from __future__ import annotations

import logging
import os
import re
import signal
import sqlite3
from contextlib import closing
from urllib.parse import quote

import airflow as installed
import psutil
import pytest
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_1_PLUS, AIRFLOW_V_3_2_PLUS

import airflow_provider_bgai
from airflow_provider_bgai.buying.decisions import decide_about
from airflow_provider_bgai.operators.review import ASKS_PEOPLE
from airflow_provider_bgai.ui.links import ROUTES
from demo.services import SCRIPTS, running
from tests.browser import find_chromium, open_chromium
from tests.catalogue.nights import Catalogue
from tests.conftest import SECRET
from tests.operators.conftest import DAGS, wait_until
from tests.ui.test_walk import log_in, shoot

pytestmark = pytest.mark.skipif(installed.__version__ < "3", reason="test_real_airflow_2.py runs 2.11")
with_routes = pytest.mark.skipif(not ROUTES, reason="the routes are for Airflow 3.1 and later")


@pytest.fixture
def start(api, box, s3, upload, product, request):
    """Trigger a DAG; its run ID."""
    upload("product.png", product)

    def start(dag_id: str, **conf) -> str:
        conf.setdefault("destination", f"s3://{s3.bucket}/{request.node.name}/product-{{index}}.{{ext}}")
        return api.trigger(dag_id, conf)

    return start


def ended(api, dag_id: str, run_id: str) -> str:
    """The run's state, once it has ended. What its failed tasks wrote is logged, for a test that did not expect it."""
    wait_until(lambda: api.run_state(dag_id, run_id) in ("success", "failed"))
    for each in api.task_instances(dag_id, run_id):
        if each["state"] == "failed":
            where = (each["task_id"], each["map_index"], each["try_number"])
            logging.getLogger(__name__).error("%s: %s", where, api.log(dag_id, run_id, *where))
    return api.run_state(dag_id, run_id)


def state(api, dag_id: str, run_id: str) -> str | None:
    (instance,) = api.task_instances(dag_id, run_id)
    return instance["state"]


def _belongs_to(airflow, process: psutil.Process) -> bool:
    """Whether it is one of that Airflow's: test runners have titles of their own, with the test's name in them."""
    try:
        return process.environ().get("AIRFLOW_HOME") == str(airflow.home)
    except psutil.Error:
        return False


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_deferred_task_lands_through_the_triggerer(api, box, start):
    box.set_latency("picwish", 2)
    run_id = start("generate_deferred")
    wait_until(lambda: state(api, "generate_deferred", run_id) == "deferred")
    assert ended(api, "generate_deferred", run_id) == "success"
    assert api.result("generate_deferred", run_id, "generate")["images"][0]["width"] > 0
    assert box.images_charged() == 1


def test_a_worker_killed_between_submission_and_completion_pays_once(api, box, start):
    box.set_latency("picwish", 8)
    run_id = start("generate_blocking")
    wait_until(lambda: any(request.kind == "poll" for request in box.requests))
    (instance,) = api.task_instances("generate_blocking", run_id)
    os.kill(instance["pid"], signal.SIGKILL)
    if not AIRFLOW_V_3_1_PLUS:  # it does not retry what was killed, so somebody clears it
        assert ended(api, "generate_blocking", run_id) == "failed"
        api.clear("generate_blocking", run_id)
    assert ended(api, "generate_blocking", run_id) == "success"
    (instance,) = api.task_instances("generate_blocking", run_id)
    assert instance["try_number"] == 2
    assert box.images_charged() == 1


def test_a_user_who_ends_a_deferred_task_loses_nothing_that_was_paid(api, box, start):
    box.set_latency("picwish", 6)
    first = start("generate_deferred")
    wait_until(lambda: state(api, "generate_deferred", first) == "deferred")
    api.set_state("generate_deferred", first, "generate", "failed")
    assert ended(api, "generate_deferred", first) == "failed"
    second = start("generate_deferred")
    assert ended(api, "generate_deferred", second) == "success"
    assert box.images_charged() == 1


def test_a_cleared_task_finds_its_picture_and_pays_nothing(api, box, start):
    run_id = start("generate_deferred")
    assert ended(api, "generate_deferred", run_id) == "success"
    (first,) = api.task_instances("generate_deferred", run_id)
    api.clear("generate_deferred", run_id)
    wait_until(lambda: api.task_instances("generate_deferred", run_id)[0]["try_number"] > first["try_number"])
    assert ended(api, "generate_deferred", run_id) == "success"
    assert api.result("generate_deferred", run_id, "generate")["reused"] is True
    assert box.images_charged() == 1


def test_what_airflow_stores_of_a_waiting_task_holds_no_key_and_no_prompt(api, airflow, box, start):
    box.set_latency("picwish", 4)
    run_id = start("generate_deferred", prompt="a prompt that is nobody's business")
    wait_until(lambda: state(api, "generate_deferred", run_id) == "deferred")
    with closing(sqlite3.connect(airflow.home / "airflow.db")) as database:
        rows = database.execute("select classpath, kwargs from trigger").fetchall()
    assert [row for row in rows if "BackgroundTaskTrigger" in row[0]]
    for _, kwargs in rows:
        assert "nobody's business" not in kwargs
        assert SECRET not in kwargs
    assert ended(api, "generate_deferred", run_id) == "success"


@with_routes
def test_a_task_has_its_buttons_while_it_waits_and_they_open_what_it_lands(api, box, start):
    box.set_latency("picwish", 4)
    run_id = start("generate_deferred")
    wait_until(lambda: state(api, "generate_deferred", run_id) == "deferred")
    waiting = wait_until(lambda: api.links("generate_deferred", run_id, "generate"))
    assert set(waiting) == {"Picture", "S3 location"}
    assert "has not landed picture 1" in api.follow(waiting["Picture"]).text
    assert ended(api, "generate_deferred", run_id) == "success"
    assert api.links("generate_deferred", run_id, "generate") == waiting
    assert api.follow(waiting["Picture"]).content.startswith(b"\x89PNG")


def test_a_task_has_its_buttons_while_it_runs_and_after_it_failed(api, box, start):
    box.set_latency("picwish", 8)
    box.fault("picwish", "state_-7", times=1)
    run_id = start("generate_blocking")
    buttons = {"Picture", "S3 location"} if ROUTES else {"S3 location"}
    wait_until(lambda: set(api.links("generate_blocking", run_id, "generate")) == buttons)
    assert state(api, "generate_blocking", run_id) == "running"
    assert ended(api, "generate_blocking", run_id) == "failed"
    assert set(api.links("generate_blocking", run_id, "generate")) == buttons


@with_routes
def test_mapped_tasks_say_what_they_hold_and_lead_to_the_report_while_they_wait(api, box, s3, upload, product, request):
    box.set_latency("picwish", 4)
    upload("named/product.png", product)
    rows = "".join(f"SKU-{number},product.png,Thing {number}\r\n" for number in range(6))
    conf = {
        "manifest": upload("named/products.csv", f"sku,image,title\r\n{rows}".encode(), "text/csv"),
        "recipe": upload("named/recipe.yaml", b"prompt: '{{ title }} on oak'", "application/yaml"),
        "destination": f"s3://{s3.bucket}/{request.node.name}",
    }
    dag_id, named = "catalogue_deferred", {0: "0000 · 5 products", 1: "0001 · 1 product"}
    run_id = api.trigger(dag_id, conf)

    def mapped(*states: str) -> dict[int, str]:
        found = [each for each in api.task_instances(dag_id, run_id) if each["task_id"] == "catalogue.generate"]
        return {each["map_index"]: each["rendered_map_index"] for each in found if each["state"] in states}

    # Airflow 3.1 shows a task's number until it has ended.
    wait_until(lambda: mapped("deferred") == (named if AIRFLOW_V_3_2_PLUS else {0: "0", 1: "1"}))
    links = wait_until(lambda: api.links(dag_id, run_id, "catalogue.generate", map_index=1))
    assert set(links) == {"Report", "S3 location"}
    assert "There is no report yet" in api.follow(links["Report"]).text
    assert ended(api, dag_id, run_id) == "success"
    assert mapped("success") == named
    reports = [api.links(dag_id, run_id, f"catalogue.{name}")["Report"] for name in ("plan", "publish")]
    for report in (*reports, links["Report"]):
        assert "SKU-3" in api.follow(report).text


def test_two_runs_of_a_catalogue_at_the_same_time_buy_each_picture_once(api, box, s3, upload, product, request):
    box.set_latency("picwish", 2)
    upload("twice/product.png", product)
    rows = "".join(f"SKU-{number},product.png,Thing {number}\r\n" for number in range(8))
    destination = f"s3://{s3.bucket}/{request.node.name}"
    conf = {
        "manifest": upload("twice/products.csv", f"sku,image,title\r\n{rows}".encode(), "text/csv"),
        "recipe": upload("twice/recipe.yaml", b"prompt: '{{ title }} on oak'", "application/yaml"),
        "destination": destination,
    }
    dag_id = "catalogue_retried"
    runs = [api.trigger(dag_id, conf) for _ in range(2)]
    assert [ended(api, dag_id, run_id) for run_id in runs] == ["success", "success"]
    assert box.images_charged() == 8
    reports = [api.result(dag_id, run_id, "catalogue.publish") for run_id in runs]
    assert sum(report["charged"] for report in reports) == 8
    assert sum(report["outcomes"].get("bought", 0) for report in reports) == 8
    assert [report["pictures"] for report in reports] == [8, 8]


def approve(airflow, address: str) -> None:
    """As a person does: look at the pictures beside the question, and press the button."""
    with open_chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        log_in(page, airflow)
        page.goto(address)
        for picture in page.locator("img[src*='/full?']").all():
            assert picture.evaluate("async image => (await image.decode(), image.naturalWidth)") > 0
        shoot(page, "review")
        page.get_by_role("button", name="Approve").click()
        page.get_by_text("Awaiting Input").first.wait_for(state="hidden")


@pytest.mark.skipif(not ASKS_PEOPLE, reason="Airflow asks people from 3.1 on")
@pytest.mark.parametrize(("option", "states"), [("Reject", "success skipped"), ("Approve", "success success")])
def test_a_person_is_asked_before_a_run_is_published(api, airflow, box, s3, storage, upload, product, option, states):
    box.fault("picwish", "redrawn_product", times=1, on="download")
    upload("asked/product.png", product)
    rows = "".join(f"SKU-{number},product.png,Thing {number}\r\n" for number in range(2))
    destination = f"s3://{s3.bucket}/asked-{option}"
    conf = {
        "manifest": upload("asked/products.csv", f"sku,image,title\r\n{rows}".encode(), "text/csv"),
        "recipe": upload("asked/recipe.yaml", b"prompt: '{{ title }} on oak'", "application/yaml"),
        "destination": destination,
        "max_failure_ratio": 0.0,
    }
    dag_id, task_id = "catalogue_reviewed", "catalogue.review"
    run_id = api.trigger(dag_id, conf)

    def found() -> dict[str, str]:
        return {each["task_id"].rpartition(".")[2]: each["state"] for each in api.task_instances(dag_id, run_id)}

    wait_until(lambda: found()["review"] in ("awaiting_input", "deferred"))
    # Who answers before Airflow 3.3's scheduler knows that the task has gone to wait, fails it. No person is so quick.
    gone = f"Received executor event with state success for task instance TaskInstanceKey(dag_id='{dag_id}', "
    gone += f"task_id='{task_id}', run_id='{run_id}'"
    wait_until(lambda: gone in (airflow.home / "standalone.log").read_text())
    asked = api.question(dag_id, run_id, task_id)
    assert asked["subject"] == "Publish? 1 file(s) of the shop would change. 1 product(s) are in quarantine or held."
    assert "| quarantined | 1 |" in asked["body"]
    assert f"(dags/{dag_id}/runs/{quote(run_id, safe='')}/plugin/" in asked["body"]
    made = Catalogue(storage, destination, box)
    (bad,) = [call for call in made.records() if call.state == "quarantined"]
    decide_about(made.ledger, bad.fingerprint, "accept")
    if option == "Approve" and find_chromium():
        approve(airflow, f"{airflow.url}/dags/{dag_id}/runs/{quote(run_id, safe='')}/tasks/{task_id}/required_actions")
    else:
        api.answer(dag_id, run_id, task_id, option)
    assert ended(api, dag_id, run_id) == "success", api.log(dag_id, run_id, task_id)
    assert f"{found()['review']} {found()['publish']}" == states
    shown = [it.uri for it in storage.list(f"{destination}/SKU")]
    assert len(shown) == (2 if option == "Approve" else 0)
    assert box.images_charged() == 2


def test_no_log_warns_of_something_of_ours_that_airflow_or_python_will_take_away(api, airflow, box, start):
    """Here and in all tests before, in every part of Airflow."""
    box.set_latency("picwish", 4)
    for dag_id in ("generate_blocking", "generate_deferred"):
        assert ended(api, dag_id, start(dag_id)) == "success"
    lines = [line for path in airflow.home.rglob("*.log") for line in path.read_text().splitlines()]
    # Of any kind: what a DAG's file is warned of becomes a UserWarning on its way.
    warnings = [line for line in lines if re.search(r"[A-Z]\w+Warning", line)]
    assert warnings  # Airflow has some of its own, so we would see ours
    ours = (f"{airflow_provider_bgai.__path__[0]}/", f"{DAGS}/")
    assert [line for line in warnings if any(path in line for path in ours)] == []


def test_a_deferred_task_survives_the_triggerer(api, airflow, box, start):
    """The last one that defers: afterwards no triggerer is left."""
    box.set_latency("picwish", 12)
    run_id = start("generate_deferred")
    wait_until(lambda: state(api, "generate_deferred", run_id) == "deferred")
    wait_until(lambda: any(request.kind == "poll" for request in box.requests))
    for process in psutil.process_iter():
        if _belongs_to(airflow, process) and "triggerer" in _title(process):
            process.send_signal(signal.SIGKILL)
    # `airflow standalone` does not start it again, so a second one takes over.
    with running([str(SCRIPTS / "airflow"), "triggerer"], airflow.home / "triggerer.log", env=airflow.env):
        assert ended(api, "generate_deferred", run_id) == "success"
    assert box.images_charged() == 1


def test_the_key_is_in_no_log_and_not_in_the_database(api, airflow, box, start):
    """Last in this file: by now tasks have been bought, killed, refused and cleared."""
    box.fault("photoroom", "bad_key", times=1, on="submit")
    assert ended(api, "generate_blocking", start("generate_blocking", conn_id="photoroom_default")) == "failed"
    box.fault("picwish", "drop_after_charge", times=1, on="submit")
    assert ended(api, "generate_blocking", start("generate_blocking", prompt="at sea")) == "failed"
    assert any(SECRET in str(request.headers) for request in box.requests)  # it was sent, to the vendor
    written = [path for path in airflow.home.rglob("*") if path.is_file()]
    assert any("generate_blocking" in str(path) for path in written)
    leaks = [path for path in written if SECRET.encode() in path.read_bytes()]
    assert leaks == []
    links = [path for path in written if path.suffix == ".log" and b"Signature=" in path.read_bytes()]
    assert links == []
