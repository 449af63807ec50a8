"""An S3 that fails around a payment: landed later, or said with price and task; charged once."""

from __future__ import annotations

import ast
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest

import airflow_provider_bgai
from airflow_provider_bgai.buying import books, collector
from airflow_provider_bgai.buying.record import error_of
from airflow_provider_bgai.exceptions import StoreError, UnknownOutcomeError
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.storage import Storage
from tests.bad_s3 import BadS3

# Bytes in the answer; a task; links in the answer.
KINDS = ("photoroom", "picwish", "katalis")


@pytest.fixture
def when(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], object]], None]:
    """``when("paid", act)``: do something once, as soon as the vendor has answered; ``"shown"``: as soon as the
    pictures are in S3, before the record says so."""

    def when(moment: str, act: Callable[[], object]) -> None:
        where, name = {"paid": (BackgroundHook, "send"), "shown": (collector, "land")}[moment]
        done = getattr(where, name)

        async def then(*args: object, **kwargs: object) -> object:
            result = await done(*args, **kwargs)
            monkeypatch.setattr(where, name, done)
            act()
            return result

        monkeypatch.setattr(where, name, then)

    return when


# After the payment: since when S3 refuses a write, and its key.
WRITES = {
    "bytes": ("paid", "/_bgai/incoming/"),
    "answer": ("paid", "/_bgai/calls/"),
    "picture": ("paid", "/_bgai/pictures/"),
    "end": ("shown", "/_bgai/calls/"),
}
CASES = [(vendor, what) for vendor in KINDS for what in WRITES if vendor == "photoroom" or what != "bytes"]
FAULTS = cycle(["down", "503", "stored_500"])


@pytest.mark.parametrize(("vendor", "what", "fault"), [(*case, next(FAULTS)) for case in CASES])
def test_a_write_after_the_payment_waits_out_an_s3_that_comes_back(shop, ill, when, vendor, what, fault):
    moment, key = WRITES[what]
    when(moment, lambda: ill.fault(fault, methods="PUT", key=key, seconds=0.7))
    call = shop.buy(shop.wish(new=True), vendor)

    assert (call.state, call.number) == ("landed", 1), error_of(call)
    assert shop.box.bill()[vendor] == 1
    assert shop.bounds() == {vendor: (1, 0)}


def assert_says_what_is_known(error: StoreError, shop, vendor: str) -> None:
    price = shop.box.connection(vendor)["extra"]["price_per_image"]
    assert f"({price} USD)" in str(error)
    assert bool(re.search(r"task [\w-]{8,}", str(error))) == (vendor == "picwish")


@pytest.mark.parametrize(("vendor", "what"), CASES)
def test_where_s3_refuses_it_for_good_the_task_fails_with_price_and_task_and_a_retry_pays_nothing(
    shop, ill, when, monkeypatch, vendor, what
):
    monkeypatch.setattr("airflow_provider_bgai.storage.PATIENCE", 0.3)
    moment, key = WRITES[what]
    when(moment, lambda: ill.fault("down", methods="PUT", key=key))
    with pytest.raises(StoreError) as refused:
        shop.buy(shop.wish(new=True), vendor)
    assert_says_what_is_known(refused.value, shop, vendor)

    ill.lift()
    ill.fault("clock", by=200)  # answer_by has passed
    if what == "bytes" or (what == "answer" and vendor != "photoroom"):
        with pytest.raises(UnknownOutcomeError, match="Held"):  # nothing of the answer is in S3
            shop.buy(shop.wish(), vendor)
        assert shop.bounds() == {vendor: (0, 1)}
    else:
        call = shop.buy(shop.wish(), vendor)
        assert (call.state, call.number) == ("landed", 1), error_of(call)
        assert shop.bounds() == {vendor: (1, 0)}
    assert shop.box.images_charged() == 1


def test_an_s3_that_is_down_for_seven_seconds_right_after_the_payment_is_waited_out(shop, bad, when):
    """With boto3's own retries, and the patience of every day."""
    shop.storage = Storage("aws_default")
    when("paid", lambda: bad.down(7.0))
    assert shop.buy(shop.wish(new=True), "photoroom").state == "landed"
    assert shop.box.images_charged() == 1
    assert shop.bounds() == {"photoroom": (1, 0)}


@pytest.mark.parametrize("boto_tries", ["1", "5"])
@pytest.mark.parametrize(
    ("fault", "folder"), [("lost_answer", "open"), ("lost_answer", "calls"), ("stored_500", "calls"), ("409", "calls")]
)
def test_a_record_that_was_stored_though_its_answer_was_lost_is_bought_once_and_not_held(
    shop, bad, monkeypatch, fault, folder, boto_tries
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", boto_tries)
    shop.storage = Storage("aws_default")
    struck = bad.fault(fault, methods="PUT", key=f"/_bgai/{folder}/", times=1)
    call = shop.buy(shop.wish(new=True), "imagine")

    assert (struck.hits, call.state) == (1, "landed"), error_of(call)
    assert {it.state for it in shop.ledger.all(call.fingerprint)} <= {"failed", "landed"}
    assert shop.box.bill()["imagine"] == 1
    assert shop.bounds() == {"imagine": (1, 0)}


def test_a_store_whose_etags_change_with_every_answer_still_lands_what_was_paid(shop, ill):
    ill.fault("etag_changes")
    assert shop.buy(shop.wish(new=True), "photoroom").state == "landed"
    assert shop.box.images_charged() == 1


@pytest.mark.parametrize("vendor", ["photoroom", "picwish"])
def test_if_match_that_never_holds_is_given_up_in_words_after_a_while_with_pauses(shop, ill, monkeypatch, vendor):
    monkeypatch.setattr("airflow_provider_bgai.storage.PATIENCE", 1.0)
    ill.fault("if_match_never")
    with pytest.raises(StoreError, match="must honour If-Match") as refused:
        shop.buy(shop.wish(new=True), vendor)
    assert_says_what_is_known(refused.value, shop, vendor)

    assert shop.box.images_charged() == 1
    assert ill.count()["PUT", "calls"] < 15
    assert shop.bounds() == {vendor: (0, 1)}


# --- somebody interferes


def while_paying(shop, vendor: str, act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as a vendor works on a picture."""

    def watch() -> None:
        while not shop.box.max_in_flight(vendor):
            time.sleep(0.01)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("vendor", KINDS)
def test_a_record_that_is_deleted_while_its_call_is_under_way_is_written_anew_and_charged_once(
    shop, storage, monkeypatch, vendor
):
    shop.box.fault(vendor, "slow", on="submit", delay=1.0)
    thread = while_paying(
        shop, vendor, lambda: storage.delete_all([it.uri for it in storage.list(shop.ledger.layout.calls())])
    )
    call = shop.buy(shop.wish(new=True), vendor)
    thread.join()

    assert (call.state, call.number) == ("landed", 2), error_of(call)
    assert shop.buy(shop.wish(), vendor, run="night-2").call_id == call.call_id
    assert shop.box.images_charged() == 1
    assert shop.bounds() == {vendor: (1, 0)}
    # The marker of the old number is taken away by who walks later, and says nothing twice.
    monkeypatch.setattr(books, "YOUNG", 0.0)
    assert shop.settle("night-3") == []
    assert list(storage.list(shop.ledger.layout.open)) == []
    assert shop.bounds() == {vendor: (1, 0)}


def test_where_another_buys_what_the_deleted_record_stood_for_both_charges_are_in_the_books(shop, storage, monkeypatch):
    monkeypatch.setattr(books, "YOUNG", 0.0)
    shop.box.fault("photoroom", "slow", on="submit", delay=2.0)

    def take_over() -> None:
        storage.delete_all([it.uri for it in storage.list(shop.ledger.layout.calls())])
        shop.buy(shop.wish(), "photoroom", run="night-2")

    thread = while_paying(shop, "photoroom", take_over)
    first = shop.buy(shop.wish(new=True), "photoroom")
    thread.join()

    assert [call.state for call in shop.ledger.all(first.fingerprint)] == ["landed", "landed"]
    shop.settle("night-3")
    assert shop.bounds() == {"photoroom": (2, 0)}
    assert shop.box.images_charged() == 2


# --- clocks


@contextmanager
def off(bad: BadS3, whose: str, seconds: float) -> Iterator[None]:
    """One clock is off."""
    true = time.time
    with pytest.MonkeyPatch.context() as patch:
        if whose == "store":
            bad.fault("clock", by=seconds)
        else:
            patch.setattr(time, "time", lambda: true() + seconds)
        yield
    bad.lift()


@pytest.mark.parametrize("seconds", [-3600, 60, 3600])
@pytest.mark.parametrize("whose", ["store", "worker"])
def test_a_clock_that_is_off_and_steps_back_to_the_right_time_charges_nothing_twice_and_loses_nothing(
    shop, ill, whose, seconds
):
    for vendor in ("picwish", "photoroom"):
        with off(ill, whose, seconds):
            call = shop.leave(vendor)
        landed = shop.buy(shop.wish(), vendor, run="night-2")
        with off(ill, whose, seconds):
            again = shop.buy(shop.wish(), vendor, run="night-3")
        assert (landed.state, landed.call_id, again.call_id) == ("landed", call.call_id, call.call_id), error_of(landed)
    assert shop.bounds() == {"photoroom": (1, 0), "picwish": (1, 0)}
    assert shop.box.images_charged() == 2


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_of_two_workers_whose_stores_clocks_differ_one_pays_and_both_have_the_picture(shop, ill, seconds):
    """The second looks while the first is in the call, and takes it for held at worst."""
    shop.box.fault("photoroom", "slow", on="submit", delay=1.5)
    ends: list[object] = []

    def other() -> None:
        with off(ill, "store", seconds):
            try:
                ends.append(shop.buy(shop.wish(), "photoroom", run="night-2").state)
            except UnknownOutcomeError:
                ends.append("held")

    thread = while_paying(shop, "photoroom", other)
    assert shop.buy(shop.wish(new=True), "photoroom").state == "landed"
    thread.join()
    assert ends == ["landed" if seconds < 0 else "held"]
    assert shop.box.images_charged() == 1
    assert shop.bounds() == {"photoroom": (1, 0)}


# --- words


def test_no_message_tells_anybody_to_delete_a_record():
    told = []
    for path in [*Path(airflow_provider_bgai.__path__[0]).rglob("*.py"), *Path(__file__).parents[2].glob("docs/*.md")]:
        text = path.read_text()
        texts = _strings(ast.parse(text)) if path.suffix == ".py" else [text]
        told += [f"{path.name}: {found[0]}" for it in texts for found in TELLS_TO_DELETE.finditer(it)]
    assert told == []


TELLS_TO_DELETE = re.compile(
    r"(?<!not )(?<!never )\b(delete|remove|rm|erase)\b[^.;:]{0,60}\b(records?|claims?|markers?|calls?|_bgai)\b", re.I
)


def _strings(tree: ast.Module) -> Iterator[str]:
    """All text of a module but its docstrings; formatted text in one piece."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value
