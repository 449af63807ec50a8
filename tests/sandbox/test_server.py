from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from airflow_provider_bgai.sandbox import Sandbox
from airflow_provider_bgai.sandbox.cli import main
from tests.conftest import VENDORS

from .conftest import KNOWN, PATHS, Vendors


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, airflow_provider_bgai.sandbox as s; s.__doc__;"
        "print([m for m in ('httpx', 'PIL', 'numpy', 'starlette', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_has_no_other_names():
    import airflow_provider_bgai.sandbox as package

    assert all(getattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError):
        _ = package.nothing


@pytest.mark.parametrize("vendor", VENDORS)
def test_connections_lead_here(box: Sandbox, vendor):
    connection = box.connection(vendor)
    assert connection["conn_type"] == f"bgai_{vendor}"
    assert connection["host"] == box.url
    assert connection["password"]
    assert connection["extra"]["allow_private_hosts"] is True
    assert connection["extra"]["price_per_image"] > 0
    json.dumps(connection)


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_example_of_every_vendor_is_right_and_costs_one_picture(box: Sandbox, vendors: Vendors, vendor):
    example = KNOWN[vendor].example(vendors.png, vendors.host(vendors.png))
    assert vendors.http.request(**example).status_code == 200
    assert box.bill() == dict.fromkeys(VENDORS, 0) | {vendor: 1}


def test_charges_add_up_under_concurrency(box: Sandbox, vendors: Vendors):
    def buy(number: int) -> None:
        vendor = VENDORS[number % len(VENDORS)]
        assert vendors.submit(vendor).status_code == 200
        assert 0 < len(box.charges) <= 100

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(buy, range(100)))
    assert len(box.charges) == box.images_charged() == 100
    assert box.bill() == dict.fromkeys(PATHS, 20)
    assert box.request_count(kind="submit") == 100


def test_the_same_wish_has_the_same_fingerprint(box: Sandbox, vendors: Vendors):
    vendors.submit("picwish")
    vendors.submit("picwish")
    vendors.submit("picwish", negative_prompt="people")
    vendors.submit("picwish", batch_size="2")
    prints = [charge.fingerprint for charge in box.charges]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_requests_are_recorded_whole(box: Sandbox, vendors: Vendors):
    vendors.submit("picwish")
    request = box.requests[0]
    assert (request.vendor, request.kind, request.method) == ("picwish", "submit", "POST")
    assert request.headers["x-api-key"] == "pw-1234"
    assert request.fields == {"prompt": "a beach", "batch_size": "1"}
    assert request.files["image_file"]["size"] == len(vendors.png)
    vendors.submit("katalis", result_number=2)
    assert box.requests[1].fields["result_number"] == 2


@pytest.mark.parametrize("vendor", ["picwish", "gptge", "katalis"])
def test_a_key_sent_to_a_result_link_is_a_leak(box: Sandbox, vendors: Vendors, vendor):
    url = vendors.result_url(vendor)
    vendors.http.get(url)
    assert box.credential_leaks == 0
    vendors.http.get(url, headers={"X-API-KEY": "secret"})
    vendors.http.get(url, headers={"Authorization": "Bearer secret"})
    assert box.credential_leaks == 2


def test_connections_and_concurrency_are_counted(box: Sandbox, vendors: Vendors):
    for _ in range(5):
        vendors.submit("imagine")
    assert (box.connections_opened, box.max_in_flight("imagine")) == (1, 1)
    box.set_latency("imagine", 0.2)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: vendors.submit("imagine"), range(4)))
    assert box.max_in_flight("imagine") == box.max_in_flight() == 4


def test_limits_are_enforced(make_vendors):
    with Sandbox(latency=0, limits={"picwish": "2/s", "photoroom": "1/min"}) as box:
        vendors = make_vendors(box)
        assert vendors.submit("photoroom").status_code == 200
        box.fault("photoroom", "server_error")
        assert vendors.submit("photoroom").status_code == 429
        assert [request.fault for request in box.requests] == [None, "limit"]  # the fault waits for its turn
        task_id = vendors.submit("picwish").json()["data"]["task_id"]
        assert [vendors.poll("picwish", task_id).status_code for _ in range(2)] == [200, 429]
        time.sleep(1)
        assert vendors.poll("picwish", task_id).status_code == 200


def test_a_connection_used_again_after_its_idle_time_finds_the_line_closed(make_vendors):
    with Sandbox(latency=0, idle_close=0.5) as box:
        vendors = make_vendors(box)
        assert [vendors.submit("imagine").status_code for _ in range(3)] == [200] * 3
        time.sleep(0.6)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)):
            vendors.submit("imagine")
        assert vendors.submit("imagine").status_code == 200  # over a new connection
        assert [request.fault for request in box.requests] == [None, None, None, "idle_close", None]
        assert (box.images_charged(), box.connections_opened) == (4, 2)
        box.set_idle_close(0)
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)):
            vendors.submit("imagine")
        fresh = {"Connection": "close"}
        assert [vendors.http.get("/v2/account", headers=fresh).status_code for _ in range(3)] == [400] * 3
        box.reset()
        assert [vendors.submit("imagine").status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("seconds", [-1, "1", float("nan")])
def test_an_idle_time_is_seconds(box: Sandbox, seconds):
    with pytest.raises(ValueError, match="idle time"):
        box.set_idle_close(seconds)


@pytest.mark.parametrize("limits", [{"nobody": "2/s"}, {"picwish": "2"}, {"picwish": "two/s"}])
def test_a_wrong_limit_is_an_error(limits):
    with pytest.raises(ValueError, match=r"limit|vendor"):
        Sandbox(limits=limits)


def test_two_sandboxes_do_not_know_each_other(box: Sandbox, make_vendors):
    with Sandbox(latency=0) as other:
        make_vendors(other).submit("imagine")
        assert (other.images_charged(), box.images_charged()) == (1, 0)
    with pytest.raises(httpx.ConnectError):
        httpx.get(other.url)


def test_stopping_does_not_wait_for_a_hanging_request(make_vendors):
    with Sandbox(latency=0) as box:
        vendors = make_vendors(box)
        box.fault("imagine", "hang")
        vendors.http.timeout = httpx.Timeout(5)
        with ThreadPoolExecutor(1) as pool:
            hanging = pool.submit(vendors.submit, "imagine")
            while not box.requests:
                time.sleep(0.01)
            started = time.monotonic()
            box.stop()
            assert time.monotonic() - started < 2
            assert hanging.exception(timeout=2) or hanging.result().status_code == 500


def test_a_wrong_path_is_nobodys(box: Sandbox, vendors: Vendors):
    assert vendors.http.post("/api/tasks/visual/background/").status_code == 404
    assert vendors.http.get("/v2/edit/").status_code == 404


class TestOverHttp:
    """What ``Sandbox`` offers in Python is there for another process too."""

    def test_charges(self, box: Sandbox, vendors: Vendors):
        vendors.submit("picwish", batch_size="2")
        answer = vendors.http.get("/_sandbox/charges").json()
        assert (answer["images"]["picwish"], answer["images"]["total"], answer["credential_leaks"]) == (
            2,
            2,
            0,
        )
        assert answer["charges"][0]["fingerprint"] == box.charges[0].fingerprint
        assert vendors.http.get("/_sandbox/bill").json() == box.bill() == dict.fromkeys(PATHS, 0) | {"picwish": 2}

    def test_requests(self, box: Sandbox, vendors: Vendors):
        vendors.submit("picwish")
        answer = vendors.http.get("/_sandbox/requests").json()
        assert (answer["count"], answer["requests"][0]["vendor"]) == (1, "picwish")
        assert answer["kinds"] == {"submit": 1, "poll": 0, "download": 0, "account": 0}
        assert answer["max_in_flight"] == 1

    def test_faults(self, box: Sandbox, vendors: Vendors):
        order = {"vendor": "picwish", "name": "rate_limited_retry_after", "times": 2, "retry_after": 3}
        assert vendors.http.post("/_sandbox/faults", json=order).json() == {"ok": True}
        assert [vendors.submit("picwish").status_code for _ in range(3)] == [429, 429, 200]
        vendors.http.post("/_sandbox/faults", json={"name": "picwish.unavailable@submit", "rate": 1})
        assert vendors.submit("picwish").status_code == 503
        wrong = vendors.http.post("/_sandbox/faults", json={"vendor": "picwish", "name": "nope"})
        assert (wrong.status_code, "unknown fault" in wrong.json()["error"]) == (400, True)

    def test_faults_take_their_details(self, box: Sandbox, vendors: Vendors):
        for order in (
            {"vendor": "katalis", "name": "odd_success_word", "word": "Fertig"},
            {"name": "katalis.slow@submit", "rate": 1, "delay": 0.2},
        ):
            assert vendors.http.post("/_sandbox/faults", json=order).json() == {"ok": True}
        assert vendors.submit("katalis").json()["message"] == "Fertig"
        started = time.monotonic()
        assert vendors.submit("katalis").status_code == 200
        assert time.monotonic() - started >= 0.2
        for wrong in ({"delay": "long"}, {"dely": 1}, {"rate": 0.1, "word": 1}, {"rate": 0.1, "dely": 1}):
            order = {"vendor": "katalis", "name": "slow"} if "rate" not in wrong else {"name": "katalis.slow"}
            assert vendors.http.post("/_sandbox/faults", json=order | wrong).status_code == 400

    def test_idle_close(self, box: Sandbox, vendors: Vendors):
        vendors.http.post("/_sandbox/idle_close", json={"seconds": 0})
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)):
            vendors.submit("picwish")
        vendors.http.post("/_sandbox/idle_close", json={"seconds": None})
        assert vendors.submit("picwish").status_code == 200
        assert vendors.http.post("/_sandbox/idle_close", json={"seconds": "soon"}).status_code == 400

    def test_latency_credits_expire_and_reset(self, box: Sandbox, vendors: Vendors):
        url = vendors.result_url("picwish")
        vendors.http.post("/_sandbox/expire")
        assert vendors.http.get(url).status_code == 403
        vendors.http.post("/_sandbox/credits", json={"vendor": "picwish", "images": 0})
        assert vendors.submit("picwish").status_code == 402
        vendors.http.post("/_sandbox/reset")
        assert box.charges == []
        vendors.http.post("/_sandbox/latency", json={"vendor": "picwish", "seconds": 60})
        task_id = vendors.submit("picwish").json()["data"]["task_id"]
        assert vendors.poll("picwish", task_id).json()["data"]["state"] == 0


class TestCommand:
    @pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
    def test_it_serves_until_stopped(self, stop):
        command = [sys.executable, "-m", "airflow_provider_bgai.sandbox", "--port", "0", "--latency", "0"]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(9)]
            url = re.search(r"http://\S+", lines[0])
            assert url
            connection = next(line for line in lines if "AIRFLOW_CONN_PICWISH_DEFAULT" in line)
            assert json.loads(connection.partition("='")[2].strip().rstrip("'"))["host"] == url[0]
            assert httpx.get(f"{url[0]}/_sandbox/charges").status_code == 200
            process.send_signal(stop)
            assert process.wait(timeout=10) == 0

    @pytest.mark.parametrize("wrong", [["--fault", "nope=1"], ["--fault", "rate_limited"], ["--limit", "picwish=x"]])
    def test_wrong_options_are_told(self, wrong, capsys):
        with pytest.raises(SystemExit):
            main(wrong)
        assert "bgai-sandbox: error:" in capsys.readouterr().err
