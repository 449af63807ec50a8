"""The records that make buying twice impossible or declared."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_bgai.catalogue.ledger import (
    TRANSITIONS,
    Claim,
    ClaimState,
    Landed,
    Ledger,
    LostRaceError,
    fingerprint,
    ledger_of,
    prompt_sha256,
    read_claim,
)
from airflow_provider_bgai.models import BackgroundRequest
from tests.conftest import SECRET

STATES = get_args(ClaimState)
ALLOWED = {(before, after) for before, allowed in TRANSITIONS.items() for after in allowed}
FORBIDDEN = sorted(set(itertools.product([None, *STATES], STATES)) - ALLOWED, key=str)


@pytest.fixture(scope="module")
def ledger(storage, s3) -> Ledger:
    return Ledger(storage, f"s3://{s3.bucket}/ledger/")


def claim_of(name: str, state: ClaimState = "claimed", **fields) -> Claim:
    known = {"owner": "dag.task", "vendor": "picwish", "conn_id": "picwish_default", "images": 1}
    known |= {"claimed_at": 1.0, "expires_at": 2.0, "destination": "s3://catalogue/a.{ext}"}
    return Claim(fingerprint=name, state=state, **(known | fields))


def stored(ledger: Ledger, name: str, state: ClaimState) -> Claim:
    """A claim in a state, written as it is, and read back."""
    uri = ledger.claim_uri(name)
    ledger.storage.put(uri, claim_of(name, state).model_dump_json().encode())
    return read_claim(ledger.storage, uri)


@pytest.mark.parametrize(("before", "after"), sorted(ALLOWED, key=str))
def test_a_transition_of_the_table_is_written(ledger, before, after):
    name = f"ok-{before}-{after}"
    first = stored(ledger, name, before) if before else None
    written = ledger.claim(claim_of(name, after), first)
    assert ledger.read_claim(name) == written
    assert written.state == after


@pytest.mark.parametrize(("before", "after"), FORBIDDEN)
def test_any_other_transition_is_refused_and_changes_nothing(ledger, before, after):
    name = f"no-{before}-{after}"
    first = stored(ledger, name, before) if before else None
    with pytest.raises(ValueError, match=f"{name}: {before} -> {after} is not allowed"):
        ledger.claim(claim_of(name, after), first)
    assert ledger.read_claim(name) == first


def test_nothing_can_be_submitted_without_a_claim():
    assert {before for before, after in ALLOWED if after == "submitted"} == {"claimed", "held"}
    assert TRANSITIONS[None] == {"claimed"}


def test_of_many_who_claim_one_picture_one_wins_and_the_others_are_told(ledger):
    def race(number: int) -> bool:
        try:
            ledger.claim(claim_of("race", owner=str(number)), None)
        except LostRaceError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(40)))
    assert won.count(True) == 1
    assert ledger.read_claim("race").owner == str(won.index(True))


def test_of_two_who_take_over_one_held_claim_one_wins(ledger):
    held = stored(ledger, "two", "held")
    ledger.move(held, "claimed", owner="first")
    with pytest.raises(LostRaceError):
        ledger.move(held, "claimed", owner="second")
    assert ledger.read_claim("two").owner == "first"


def test_a_claim_can_be_moved_on_and_on_by_who_wrote_it(ledger):
    claim = ledger.claim(claim_of("life"), None)
    claim = ledger.move(claim, "submitted", task_id="task-1", submitted_at=3.0)
    claim = ledger.move(claim, "lost", reason="lost", error="expired")
    claim = ledger.move(claim, "claimed", task_id=None)
    found = ledger.read_claim("life")
    assert found == claim
    assert (found.state, found.task_id, found.error) == ("claimed", None, "expired")
    assert found.uri == ledger.claim_uri("life")


def test_there_is_no_claim_and_no_landed_record_before_the_first(ledger):
    assert ledger.read_claim("none") is None
    assert ledger.read_landed("none") is None


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b'{"state": "paid"}'])
def test_an_unreadable_claim_is_no_licence_to_buy(ledger, content):
    ledger.storage.put(ledger.claim_uri("torn"), content)
    with pytest.raises(ValueError, match="Claim"):
        ledger.read_claim("torn")


def test_a_claim_of_a_later_version_is_read_all_the_same(ledger):
    later = json.loads(claim_of("later").model_dump_json()) | {"schema_version": 2, "new_field": 1}
    ledger.storage.put(ledger.claim_uri("later"), json.dumps(later).encode())
    assert ledger.read_claim("later").schema_version == 2


def test_a_landed_record_comes_back_whole_with_its_money_exact(ledger):
    landed = Landed(
        fingerprint="done",
        vendor="picwish",
        conn_id="picwish_default",
        task_id="task-1",
        price=Decimal("0.10"),
        currency="EUR",
        seed=None,
        model=None,
        prompt_sha256=None,
        seconds=1.5,
        landed_at=5.0,
        images=[
            {
                "uri": "s3://catalogue/a.png",
                "bytes": 5,
                "sha256": "ab",
                "width": 1,
                "height": 1,
                "content_type": "image/png",
            }
        ],
    )
    assert ledger.land(landed, since=1.0) == landed
    assert ledger.read_landed("done") == landed
    assert str(ledger.read_landed("done").price) == "0.10"


def test_of_two_who_land_one_call_the_first_stands_and_a_later_call_replaces_it(ledger):
    known = {"fingerprint": "both", "vendor": "picwish", "conn_id": "picwish_default", "task_id": "1", "price": None}
    known |= {"currency": "EUR", "seed": None, "model": None, "prompt_sha256": None, "seconds": 1, "images": ()}
    one, two = (Landed(**known, owner=owner, landed_at=at) for owner, at in (("one", 5.0), ("two", 6.0)))
    assert ledger.land(one, since=4.0) == one
    assert ledger.land(two, since=4.0) == one
    assert ledger.read_landed("both") == one
    assert ledger.land(two, since=5.5) == two
    assert ledger.read_landed("both") == two


def test_what_was_paid_in_vain_goes_with_the_claim():
    claim = claim_of("vain", "quarantined", price=Decimal("0.03"), images=2)
    (call,) = claim.in_vain
    assert (call.outcome, call.pictures, call.price) == ("quarantined", 2, Decimal("0.03"))
    again = claim_of("vain", "lost", wasted_in_run=claim.in_vain, price=None)
    assert [it.outcome for it in again.in_vain] == ["quarantined", "lost"]
    assert claim_of("vain", "failed", wasted_in_run=claim.in_vain).in_vain == claim.in_vain


def test_records_live_below_the_destination_and_know_their_ledger(storage, ledger, s3):
    assert ledger.claim_uri("x") == f"s3://{s3.bucket}/ledger/_bgai/claims/x"
    assert ledger.landed_uri("x") == f"s3://{s3.bucket}/ledger/_bgai/landed/x"
    assert ledger_of(storage, ledger.claim_uri("x")).root == ledger.root
    with pytest.raises(ValueError, match="not a record of a ledger"):
        ledger_of(storage, "s3://catalogue/a.png")


def test_a_claim_has_no_place_for_a_prompt_or_a_key():
    request = BackgroundRequest("a.png", f"a prompt with {SECRET}")
    claim = claim_of("plain", prompt_sha256=prompt_sha256(request))
    assert SECRET not in claim.model_dump_json()
    assert not {"prompt", "password", "key", "options"} & set(Claim.model_fields)


def test_a_claim_does_not_show_links_in_logs():
    assert "guessable" not in repr(claim_of("quiet", links=("https://storage.example/guessable.png",)))


# --- fingerprint -----------------------------------------------------------------------------------

WISH = {
    "prompt": "on a beach",
    "negative_prompt": "people",
    "seed": 7,
    "count": 1,
    "template": 5,
    "guidance_image": "b.png",
    "guidance_scale": 0.5,
    "options": {"a": 1, "b": 2},
}
OTHER = {
    "prompt": "on a Beach",
    "negative_prompt": "dogs",
    "seed": 8,
    "count": 2,
    "template": 6,
    "guidance_scale": 0.6,
    "options": {"a": 1, "b": 3},
}
KNOWN = {"image": "etag:1", "guidance_image": "etag:2", "vendor": "picwish", "model": "3", "epoch": None}


def name_of(wish: dict = WISH, known: dict = KNOWN, image: str = "a.png") -> str:
    return fingerprint(BackgroundRequest(image, **wish), **known)


@pytest.mark.parametrize("field", OTHER)
def test_another_wish_has_another_fingerprint(field):
    assert name_of(WISH | {field: OTHER[field]}) != name_of()
    assert name_of({name: value for name, value in WISH.items() if name != field} | {"count": 3}) != name_of()


@pytest.mark.parametrize("field", KNOWN)
def test_another_source_vendor_model_or_epoch_has_another_fingerprint(field):
    assert name_of(known=KNOWN | {field: "another"}) != name_of()


def test_the_same_wish_in_another_order_has_the_same_fingerprint():
    backwards = dict(reversed(WISH.items())) | {"options": {"b": 2, "a": 1}}
    assert name_of(backwards) == name_of()


def test_the_name_of_the_source_does_not_count_but_its_content_does():
    assert name_of(image="moved/elsewhere.png") == name_of()


def test_a_wish_from_a_form_is_the_same_wish():
    assert name_of(WISH | {"seed": "7", "count": "1", "guidance_scale": "0.5"}) == name_of()


def test_post_processing_counts(monkeypatch):
    before = name_of()
    monkeypatch.setattr("airflow_provider_bgai.catalogue.ledger.POST_PROCESSING", 999)
    assert name_of() != before


@given(st.text().filter(str.strip), st.text().filter(str.strip))
def test_fingerprints_are_equal_only_for_equal_prompts(one, other):
    same = name_of(WISH | {"prompt": one}) == name_of(WISH | {"prompt": other})
    assert same is (one == other)


def test_a_fingerprint_never_changes_between_versions():
    """Every landed picture would be bought again. Raise POST_PROCESSING on purpose, nothing else."""
    request = BackgroundRequest("a.png", "on a beach")
    plain = fingerprint(request, image="etag:1", guidance_image=None, vendor="picwish", model=None)
    assert plain == "eb24e8eb27d4a79abe7ef6fbfdf94dee50eba3d6cda339f50cfe28341f414027"
