"""What goes wrong, and how often: the vendors' faults, the bad S3's, and the clocks."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx

from airflow_provider_bgai.sandbox import registry
from demo.services import SandboxService
from tests.bad_s3 import BadS3

VENDORS = ("picwish", "photoroom")
LATENCY = 1.0
"""Seconds a vendor works on a picture."""
SLOW = 1.0
"""Seconds that ``slow`` adds."""
CLOCKS = (0.0, 3600.0, -3600.0)
"""Seconds by which the clocks of the workers are off."""
STEP = 1.0
"""Seconds by which the store's clock is off, now ahead and now behind."""

FAULTS = (
    "rate_limited",
    "rate_limited_retry_after",
    "rate_limited_retry_after_date",
    "server_error",
    "unavailable",
    "bad_gateway",
    "moderation",
    "html_200",
    "html_200_after_charge",
    "server_error_after_charge",
    "server_error_after_charge_html",
    "unavailable_after_charge",
    "unavailable_after_charge_html",
    "drop_before_charge",
    "drop_after_charge",
    "drop_mid_body",
    "hang",
    "hang_after_charge",
    "slow",
    "truncated_image",
    "wrong_content_type",
    "bomb_image",
    "redrawn_product",
    "blank_image",
    "state_-1",
    "state_-2",
    "state_-3",
    "state_-5",
    "state_-7",
    "state_-8",
    "pending_forever",
    "not_found_first",
    "no_state",
    "expired_url",
    "unsupported_attributes",
    "bad_key@poll",
)
RATES: Mapping[str, float] = dict.fromkeys(FAULTS, 0.0025)
"""The share that each strikes of the requests it can strike; together about 7 % of the submissions."""
UPLOADING = 0.7
"""The share of its submissions that PicWish is slow to answer: the sandbox answers sooner than any upload could end."""
LEFT_OUT = {
    "quota_spent": "closes the connection for the rest of the run, and nothing is left to break",
    "bad_key": "on a submission: the same; on polls it is in",
    "huge_image": "256 MB a piece: too slow to watch; refused as bomb_image is",
    "more_pictures": "bills two where one was asked for: nobody can know before they are collected",
    "fewer_pictures": "never none, and one is asked for here",
    "odd_success_word": "Katalis only, which is not among the two vendors",
    "words_without_pictures": "the same",
    "not_success_200": "the same",
    "photoroom.server_error_after_charge": "breaks the vendor's word: its page calls this very answer not billed",
}

# The vendors' own doing, by what became of a submission (or a download) that was struck.
SILENT = frozenset({"server_error", "unavailable", "bad_gateway", "html_200", "drop_before_charge", "hang"})
"""Not charged, and answered so that nobody can know."""
SPOILT = registry.CHARGED - {"slow", "wrong_content_type", "unsupported_attributes"}
"""Charged, and nothing came that could be published."""

# Of the requests of the workers: method and key as in `tests.bad_s3`.
S3_FAULTS = {"lost_answer": 0.005, "stored_500": 0.005, "500": 0.005, "503": 0.005, "409": 0.02}
DOWN_EVERY = 15.0  # s, on average
DOWN_FOR = (0.5, 3.0)  # s


def steer(sandbox: SandboxService, rates: Mapping[str, float]) -> None:
    """Give faults of the vendors their rates; 0: they strike no more."""
    unnamed = set(registry.FAULTS) - {name.partition("@")[0] for name in FAULTS} - set(LEFT_OUT)
    if unnamed:
        raise SystemExit(f"neither in FAULTS nor in LEFT_OUT: {', '.join(sorted(unnamed))}")
    never = dict.fromkeys((name for name in LEFT_OUT if "." in name), 0.0)
    with httpx.Client(base_url=sandbox.url, trust_env=False) as client:
        for name, rate in {**rates, **never, "picwish.slow@submit": UPLOADING}.items():
            order = {"name": name, "rate": rate, "delay": SLOW}
            client.post("/_sandbox/faults", json=order).raise_for_status()


@contextmanager
def bad_weather(bad: BadS3, seed: int) -> Iterator[None]:
    """Let S3 fail at its rates, and be down for a moment now and then, as long as this lasts."""
    over, dice = threading.Event(), random.Random(seed)

    def down_now_and_then() -> None:
        while not over.wait(dice.expovariate(1 / DOWN_EVERY)):
            bad.down(dice.uniform(*DOWN_FOR))

    for place, (name, rate) in enumerate(S3_FAULTS.items()):
        bad.fault(name, rate=rate, seed=seed + place)
    for by in (STEP, -STEP):
        bad.fault("clock", rate=0.1, by=by, seed=seed)
    thread = threading.Thread(target=down_now_and_then, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bad.lift()


def shift_clock(seconds: float) -> None:
    """Let this process's clock be wrong from now on."""
    right = time.time
    time.time = lambda: right() + seconds
