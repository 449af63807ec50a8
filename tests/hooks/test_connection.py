"""Connections: how settings are read, what the test button says, which hook a connection gets."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from airflow_provider_bgai.exceptions import AuthenticationError
from airflow_provider_bgai.hooks import aget_hook, get_hook
from tests.conftest import KEYS, VENDORS
from tests.servers import closed_port, serving_website

CLASSES = {
    "picwish": ("picwish", "PicWishHook", "https://techsz.aoscdn.com", 120),
    "photoroom": ("photoroom", "PhotoroomHook", "https://image-api.photoroom.com", 60),
    "imagine": ("imagine", "ImagineHook", "https://api.vyro.ai", 60),
    "katalis": ("katalis", "KatalisHook", "https://dev-api.katalis.ai", 60),
    "gptge": ("gptge", "GptGeHook", "https://api.gpt.ge", 120),
}


@pytest.fixture
def settings(monkeypatch):
    """The settings of a connection given as its parts."""

    def read(vendor: str = "picwish", **parts):
        connection = {"conn_type": f"bgai_{vendor}", "password": "key", **parts}
        monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps(connection))
        return get_hook("mine").settings

    return read


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_bare_connection_goes_to_the_vendor_at_its_documented_rate(settings, vendor):
    read = settings(vendor)
    _, _, base_url, rate = CLASSES[vendor]
    assert (read.base_url, read.requests_per_minute) == (base_url, rate)
    assert (read.max_concurrency, read.timeout, read.currency) == (8, 120.0, "USD")
    assert read.price_per_image is None
    assert read.allow_private_hosts is False


@pytest.mark.parametrize("vendor", VENDORS)
async def test_the_hook_is_picked_by_the_connection_type_alone(connections, vendor):
    module, name, *_ = CLASSES[vendor]
    for vendor_hook in (get_hook(f"{vendor}_default"), await aget_hook(f"{vendor}_default")):
        assert type(vendor_hook).__module__ == f"airflow_provider_bgai.hooks.{module}"
        assert type(vendor_hook).__name__ == name
        assert vendor_hook.default_conn_name == f"{vendor}_default"
        assert vendor_hook.vendor == vendor


async def test_another_type_of_connection_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_MINE", '{"conn_type": "http"}')
    with pytest.raises(AuthenticationError, match=r"'mine' has type 'http'; it must be one of bgai_gptge, .*picwish"):
        get_hook("mine")
    with pytest.raises(AuthenticationError, match="'mine' has type 'http'"):
        await aget_hook("mine")


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("requests_per_minute", "30", 30.0),
        ("requests_per_minute", 0.5, 0.5),
        ("max_concurrency", "4", 4),
        ("max_concurrency", 4.0, 4),
        ("timeout", " 2.5 ", 2.5),
        ("price_per_image", "0.05", Decimal("0.05")),
        ("price_per_image", 0.1, Decimal("0.1")),
        ("price_per_image", "0", Decimal(0)),
        ("price_per_image", "", None),
        ("price_per_image", None, None),
        ("currency", "EUR", "EUR"),
        ("currency", "", "USD"),
        ("allow_private_hosts", "true", True),
        ("allow_private_hosts", "False", False),
        ("allow_private_hosts", "1", True),
        ("allow_private_hosts", "", False),
        ("allow_private_hosts", None, False),
        ("timeout", None, 120.0),
    ],
)
def test_extras_are_read_as_forms_and_json_write_them(settings, name, given, read):
    assert getattr(settings(extra={name: given}), name) == read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("requests_per_minute", "fast"),
        ("requests_per_minute", 0),
        ("requests_per_minute", -1),
        ("requests_per_minute", "inf"),
        ("requests_per_minute", "nan"),
        ("max_concurrency", 0),
        ("max_concurrency", 1.5),
        ("max_concurrency", "many"),
        ("timeout", "0"),
        ("timeout", []),
        ("price_per_image", "cheap"),
        ("price_per_image", -0.1),
        ("price_per_image", "NaN"),
        ("price_per_image", "Infinity"),
        ("allow_private_hosts", "perhaps"),
        ("allow_private_hosts", 2),
    ],
)
def test_a_wrong_extra_is_named_with_its_value_and_its_rule(settings, name, value):
    with pytest.raises(AuthenticationError, match=r"Connection 'mine': extra") as wrong:
        settings(extra={name: value})
    assert f"extra {name}={value!r}: must be " in str(wrong.value)


@pytest.mark.parametrize(
    ("parts", "base_url"),
    [
        ({"host": ""}, "https://techsz.aoscdn.com"),
        ({"host": "techhk.aoscdn.com"}, "https://techhk.aoscdn.com"),
        ({"host": "techhk.aoscdn.com/"}, "https://techhk.aoscdn.com"),
        ({"host": "localhost", "port": 8780, "schema": "http"}, "http://localhost:8780"),
        ({"host": "localhost:8780", "port": 9999}, "https://localhost:8780"),
        ({"host": "http://localhost:8780"}, "http://localhost:8780"),
        ({"host": " https://proxy.example/picwish/ "}, "https://proxy.example/picwish"),
        ({"host": "https://proxy.example", "schema": "http"}, "https://proxy.example"),
        ({"host": "https://proxy.example", "port": 8443}, "https://proxy.example:8443"),
        ({"host": "https://proxy.example/picwish", "port": 8443}, "https://proxy.example:8443/picwish"),
    ],
)
def test_a_host_may_be_a_name_a_name_and_port_or_a_url(settings, parts, base_url):
    assert settings(**parts).base_url == base_url


@pytest.mark.parametrize(
    "host",
    [
        "ftp://a.example",
        "http://",
        "a.example:port",
        "a.example:99999",
        "a.example:0",
        "https://[broken",
        "a b.example",
        f"{'a' * 70}.example",
        "https://a.example/b?c=d",
        "https://a.example/#b",
    ],
)
def test_a_host_that_is_none_is_named(settings, host):
    with pytest.raises(AuthenticationError, match="Connection 'mine': host=.*must be a host name or an http"):
        settings(host=host)


def test_a_password_in_the_host_is_refused_and_not_shown(settings):
    with pytest.raises(AuthenticationError, match="the key belongs into the password field") as wrong:
        settings(host="https://user:word@a.example")
    assert "word@" not in str(wrong.value)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("host", ["http://127.0.0.1:9", "http://localhost:9", "http://0177.0.0.1", "https://10.0.0.1"])
def test_a_host_whose_pictures_could_not_be_fetched_is_told_by_the_test_button(hook, connect, vendor, host):
    connect(vendor, {"allow_private_hosts": False}, host=host)
    passed, message = hook(vendor).test_connection()
    assert not passed
    assert message.startswith(f"Connection '{vendor}_default' goes to {host}")


def test_blanks_around_a_pasted_key_are_dropped(settings):
    assert settings(password=" key \n").key == "key"


@pytest.mark.parametrize(("price", "cost"), [("0.03", Decimal("0.06")), (None, None), (0, Decimal(0))])
def test_the_cost_is_unknown_without_a_price_and_never_zero(connect, price, cost):
    connect("picwish", {"price_per_image": price})
    assert get_hook("picwish_default").cost(2) == cost


# --- the test button -------------------------------------------------------------------------------


def test_picwish_and_photoroom_are_asked_for_what_is_left(hook, box):
    box.set_credits("picwish", 41)
    box.set_credits("photoroom", 83)
    assert hook("picwish").test_connection() == (True, "The key is valid; credits left: 41")
    assert hook("photoroom").test_connection() == (True, "The key is valid; plan basic, 83 of 83 images left")
    assert {request.kind for request in box.requests} == {"account"}
    assert box.images_charged() == 0


@pytest.mark.parametrize("vendor", ["imagine", "katalis", "gptge"])
def test_vendors_without_a_free_endpoint_are_not_asked_and_that_is_said(hook, box, vendor):
    passed, message = hook(vendor).test_connection()
    assert passed
    assert message.startswith("Not checked: ")
    assert "no free endpoint" in message
    assert box.url in message
    assert box.requests == []  # nothing of the vendor's own


@pytest.mark.parametrize(("vendor", "status"), [("picwish", 401), ("photoroom", 403)])
def test_a_wrong_key_is_told(hook, box, connect, vendor, status):
    connect(vendor, password="bad-" + KEYS[vendor])
    passed, message = hook(vendor).test_connection()
    assert not passed
    assert str(status) in message
    assert KEYS[vendor] not in message
    assert box.images_charged() == 0


@pytest.mark.parametrize("vendor", ["picwish", "photoroom", "imagine", "gptge"])
def test_a_missing_key_is_told_without_asking(hook, box, connect, vendor):
    connect(vendor, password="")
    passed, message = hook(vendor).test_connection()
    assert not passed
    assert "has no API key: put it into the password field" in message
    assert box.requests == []


def test_katalis_needs_no_key_and_does_not_claim_to_have_one(hook, connect):
    connect("katalis", password="")
    passed, message = hook("katalis").test_connection()
    assert passed
    assert "A key is set" not in message


def test_a_wrong_extra_is_told(hook, connect):
    connect("imagine", {"timeout": "long"})
    assert hook("imagine").test_connection() == (
        False,
        "Connection 'imagine_default': extra timeout='long': must be seconds above 0",
    )


@pytest.mark.parametrize("fault", ["server_error", "html_200", "drop_before_charge", "rate_limited"])
def test_credits_that_cannot_be_read_say_nothing_about_the_key(hook, box, fault):
    box.fault("picwish", fault, on="account")
    passed, message = hook("picwish").test_connection()
    assert passed
    assert message.startswith("Not checked: ")


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_dead_host_is_told(hook, connect, vendor):
    with closed_port() as port:
        connect(vendor, host=f"http://127.0.0.1:{port}")
        passed, message = hook(vendor).test_connection()
    assert not passed
    assert f"no connection to http://127.0.0.1:{port}" in message


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_before_a_dead_host_is_told(hook, connect, vendor, status):
    with serving_website() as site:
        for path in ("/", "/api/customers/package-credits", "/v2/account"):
            site.answer(path, "<h1>Nobody there</h1>", status)
        connect(vendor, host=site.url)
        passed, message = hook(vendor).test_connection()
        assert not passed
        assert f"answered {status}" in message
        assert not [seen for seen in site.requests if seen.path == "/" and KEYS[vendor] in str(seen.headers)]


def test_a_sandbox_key_of_photorooms_is_not_called_invalid(hook, box, connect):
    connect("photoroom", password=f"sandbox_{KEYS['photoroom']}")
    passed, message = hook("photoroom").test_connection()
    assert passed
    assert message.startswith("The key is valid; plan basic")
    assert message.endswith("; pictures are free and carry a watermark, as it is a sandbox key")
    box.fault("photoroom", "bad_key", on="account")
    passed, message = hook("photoroom").test_connection()
    assert passed
    assert message.startswith("Not checked: Photoroom's account page does not take this key")


@pytest.mark.parametrize("fault", ["server_error", "drop_before_charge"])
def test_a_photoroom_account_that_cannot_be_read_is_told(hook, box, fault):
    box.fault("photoroom", fault, on="account")
    passed, message = hook("photoroom").test_connection()
    assert not passed
    assert message.startswith("Photoroom")
