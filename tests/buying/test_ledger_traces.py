"""Orders of events in which a draft of the ledger, or its first code, lost money or counted it twice: none does now."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from airflow_provider_bgai.exceptions import GivenUpError, PollError, UnknownOutcomeError
from airflow_provider_bgai.sandbox import Sandbox
from tests.buying.stepping import Process
from tests.buying.world import HOUR, World, stepped  # noqa: F401


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.check()
    world.close()


def states(world: World) -> list[str]:
    """Of the calls of wish "a", by number."""
    found = [call for call in world.records.values() if call.fingerprint[0] == "a"]
    return [call.state for call in sorted(found, key=lambda call: call.number)]


def booked(world: World) -> list[str]:
    """What the books say in the end, by call."""
    return [line.state for _, line in sorted(world.a_quiet_night().items())]


def sends(world: World, process: Process, outcome: str) -> None:
    """Let a process send, and get as far as its next request."""
    world.run(process, "send")
    world.go(process, outcome=outcome)


def killed(world: World, process: Process, order: str = "killed before") -> None:
    world.go(process, order)
    assert process.at is None


# --- answers ----------------------------------------------------------------------------------------------


def test_an_answer_that_comes_after_its_call_was_given_up_and_booked_is_counted_once(world):
    mine = world.buys()
    sends(world, mine, "task")
    world.time_passes(21 * HOUR)
    world.run(world.walks())
    assert states(world) == ["unknown"]
    world.run(mine)
    assert isinstance(mine.error, UnknownOutcomeError)
    assert states(world) == booked(world) == ["unknown"]


def test_a_live_twin_is_waited_for_whatever_the_policy(world):
    mine = world.buys()
    world.run(mine, "send")
    for other in (world.buys(), world.buys(policy="resubmit"), world.buys(run="two", policy="resubmit")):
        world.run(other, "sleep")
        assert other.at == "sleep"
    world.run(mine)
    assert states(world) == booked(world) == ["landed"]


def test_bytes_that_were_delivered_before_a_kill_are_landed_by_whoever_comes_next(world):
    mine = world.buys(policy="resubmit")
    sends(world, mine, "bytes")
    world.run(mine, "replace")
    killed(world, mine)
    assert states(world) == ["sent"]
    world.time_passes(60)
    world.run(world.buys(run="two", policy="resubmit"))
    assert states(world) == booked(world) == ["landed"]


def test_who_takes_up_bytes_that_somebody_else_gives_up_meanwhile_decides_again(world):
    """He looked into ``incoming/`` a moment before they came."""
    mine = world.buys()
    sends(world, mine, "bytes")
    world.time_passes(21 * HOUR)
    walker = world.walks()
    world.run(walker, "replace")
    world.go(mine)
    other = world.buys(run="two")
    world.run(other, "replace")
    killed(world, mine)
    world.run(walker)
    assert states(world) == ["unknown"]
    world.run(other)
    assert other.error is None
    assert states(world) == booked(world) == ["unknown", "landed"]


def test_an_answer_that_comes_just_when_its_wish_is_given_up_is_collected(world):
    for night in range(2):
        world.run(world.buys(run=f"night-{night}"), outcome="answer lost")
        world.time_passes(21 * HOUR)
    mine = world.buys(run="night-2")
    sends(world, mine, "bytes")
    world.time_passes(21 * HOUR)
    other = world.buys(run="night-3")
    world.run(other, "replace")
    world.go(mine)
    world.go(mine)
    world.run(other)
    assert other.error is None
    assert states(world) == booked(world) == ["unknown", "unknown", "landed"]


# --- markers --------------------------------------------------------------------------------------------------


def test_a_process_that_is_stopped_before_its_record_finds_it_ended_and_sends_nothing(world):
    mine = world.buys()
    world.run(mine, "create")
    world.time_passes(1.1 * HOUR)
    walker = world.walks()
    world.run(walker, "create")
    world.go(walker)
    assert states(world) == ["unknown"]
    world.run(mine, "send")
    assert states(world) == ["unknown", "sent"]
    killed(world, walker)
    world.run(mine)
    assert booked(world) == ["unknown", "landed"]


@pytest.mark.parametrize("at", ["create", "send"])
def test_a_process_that_is_killed_before_its_bytes_go_out_leaves_something_to_be_declared(world, at):
    mine = world.buys()
    world.run(mine, at)
    killed(world, mine)
    assert booked(world) == ["unknown"]


def test_a_call_whose_record_became_anothers_is_declared(world):
    """A person deleted the record while its call was under way, and the number was used again."""
    mine, other = world.buys(), world.buys(run="two")
    world.run(other, "create")
    sends(world, mine, "task")
    world.delete("record", world.records_of(mine.call_id)[0])
    sends(world, other, "task")
    killed(world, mine)
    world.run(other)
    assert sorted(booked(world)) == ["landed", "unknown"]


def test_a_call_that_is_written_anew_while_its_old_record_is_booked_keeps_a_marker(world):
    mine = world.buys()
    sends(world, mine, "task")
    world.go(mine, "answer lost")
    walker = world.walks()
    world.run(walker, "delete_all")
    (call,) = world.records_of(mine.call_id)
    assert call.state == "landed"
    world.delete("record", call)
    world.run(mine, "put")
    world.run(walker)
    world.run(mine)
    assert booked(world) == ["landed"]


def test_a_marker_that_holds_an_answer_without_its_record_is_no_call_to_be_collected(world):
    mine = world.buys()
    sends(world, mine, "links")
    world.go(mine)
    killed(world, mine)
    world.run(world.walks("two"), "put")
    walker = world.walks("two")
    world.run(walker, "put")
    world.go(walker)
    world.delete("record", world.records_of(mine.call_id)[0])
    other = world.walks("three")
    world.run(other)
    assert other.error is None
    killed(world, walker)
    assert booked(world) == ["unknown"]


def test_a_call_without_a_marker_is_found_by_the_audit_though_a_loser_was_booked_at_its_number(world):
    mine, other = world.buys(), world.buys(run="two")
    world.run(other, "create")
    sends(world, mine, "task")
    world.go(mine)
    killed(world, mine)
    killed(world, other)
    world.delete("marker", world.records_of(mine.call_id)[0])
    assert sorted(booked(world)) == ["landed", "unknown"]


# --- numbers ----------------------------------------------------------------------------------------------------


def test_a_number_that_s3_refused_is_left_to_whoever_has_it_by_then(world):
    """Both believe that the wish is new, and neither looks before it creates number 1."""
    mine, other = world.buys(), world.buys(run="two")
    world.run(mine, "create")
    world.go(mine, "refused")
    world.run(other, "send")
    world.run(mine, "sleep")
    world.go(mine)
    world.run(mine, "sleep")
    assert mine.at == "sleep"
    world.run(other)
    world.run(mine)
    assert mine.error is None
    assert states(world) == booked(world) == ["landed"]


def test_a_number_that_s3_refused_is_not_left_out(world):
    mine, other = world.buys(), world.buys(run="two")
    world.run(mine, "create")
    world.go(mine, "refused")
    world.run(mine)
    world.run(other)
    assert (mine.error, other.error) == (None, None)
    assert states(world) == booked(world) == ["landed"]


def test_a_free_answer_that_s3_refuses_to_write_down_lets_nothing_pass_by_its_number(world):
    mine = world.buys()
    sends(world, mine, "fault")
    world.go(mine, "refused")
    world.go(mine, "refused")
    world.run(mine, "send")
    assert mine.at != "send"
    assert states(world) == ["sent"]
    assert booked(world) == ["unknown"]


def test_a_free_answer_is_followed_by_a_call_of_its_own(world):
    mine = world.buys()
    sends(world, mine, "fault")
    sends(world, mine, "refused")
    world.run(mine, outcome="task")
    assert states(world) == booked(world) == ["failed", "failed", "landed"]
    assert [call.vendor for call in world.records.values()] == ["first", "first", "second"]


def test_a_doubt_never_leads_to_another_vendor(world):
    mine = world.buys()
    sends(world, mine, "not charged, answer lost")
    world.run(mine, "send")
    assert isinstance(mine.error, UnknownOutcomeError)
    assert states(world) == ["sent"]


def test_a_wish_is_given_up_after_three_doubts_however_often_it_is_wanted(world):
    for night in range(5):
        world.run(world.buys(run=f"night-{night}"), outcome="answer lost")
        world.time_passes(21 * HOUR)
    assert isinstance(world.processes[-1].error, GivenUpError)
    assert states(world) == booked(world) == ["unknown"] * 3
    world.run(world.buys(run="asked for", again=True))
    assert states(world) == booked(world) == ["unknown"] * 3 + ["landed"]


# --- adding up and settling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(4))
def test_who_adds_up_while_others_book_misses_nothing(world, steps):
    mine = world.buys()
    sends(world, mine, "links")
    while states(world) != ["landed"]:
        world.go(mine)
    reader = world.adds_up()
    world.run(reader, steps=steps)
    world.run(mine)
    world.run(reader)
    assert reader.error is None
    assert booked(world) == ["landed"]


def test_a_task_counts_as_perhaps_until_it_has_ended_because_it_may_fail_for_free(world):
    mine = world.buys()
    sends(world, mine, "task that fails")
    world.go(mine)
    assert states(world) == ["answered"]
    world.check()
    world.run(mine)
    assert states(world) == booked(world) == ["failed"]


@pytest.mark.parametrize("order", ["refused", "answer lost"])
def test_an_s3_error_while_one_call_is_collected_keeps_no_other_from_the_books(world, order):
    for wish in "ab":
        mine = world.buys(wish)
        world.run(mine, outcome="slow task")
        assert isinstance(mine.error, PollError)
    world.time_passes(400)
    walker = world.walks()
    world.run(walker, "put")
    world.go(walker, order)
    world.run(walker)
    assert walker.error is None
    assert sorted(call.state for call in world.records.values()) in (["answered", "landed"], ["landed", "landed"])
    assert booked(world) == ["landed", "landed"]


def test_servers_of_this_process_go_on_beside_the_world(world):
    with Sandbox() as box, httpx.Client(base_url=box.url, trust_env=False, timeout=5) as http:
        for _ in range(3):
            assert http.get("/_sandbox/bill").status_code == 200
            time.sleep(0.2)  # a server looks every 0.1 s whether it is to end
