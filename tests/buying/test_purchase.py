"""A wish at work: its source is read once and prepared once, and it takes the straight way to the wire."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import airflow_provider_bgai
from airflow_provider_bgai.catalogue.results import Wanted
from airflow_provider_bgai.catalogue.shard import Shard
from airflow_provider_bgai.hooks.channel import Channel
from airflow_provider_bgai.imaging import prepare as preparing
from airflow_provider_bgai.imaging.fidelity import Thresholds
from airflow_provider_bgai.imaging.inspect import Inspection
from airflow_provider_bgai.storage import Storage
from tests.catalogue.nights import run_shard
from tests.conftest import VENDORS

PACKAGE = Path(airflow_provider_bgai.__path__[0])


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_purchase_reads_its_source_once_and_prepares_it_once(shop, vendor, monkeypatch):
    """Though it takes three calls, and the picture is compared with the source when it lands."""
    reads: list[str] = []
    sources: list[bytes] = []
    prepared = preparing.prepare

    def prepare(data: bytes, limits: Any) -> Any:
        sources.append(data)
        return prepared(data, limits)

    def reading(request: Any, **_: Any) -> None:
        if request.method == "GET":
            reads.append(request.url)

    shop.storage = Storage()
    shop.storage.client.meta.events.register("before-send.s3", reading)
    monkeypatch.setattr(preparing, "prepare", prepare)
    shop.box.fault(vendor, "rate_limited", times=2)
    call = shop.buy(shop.wish(inspection=Inspection(thresholds=Thresholds())), vendor)
    assert (call.state, call.number) == ("landed", 3)
    assert call.images[0].fidelity is not None
    source = shop.image.removeprefix("s3:/")
    assert (sum(source in url for url in reads), len(sources)) == (1, 1)


def test_a_wish_passes_through_three_rooms_from_the_shard_to_the_wire(shop, monkeypatch):
    send, rooms = Channel.send, []

    async def sending(channel: Channel, *args: Any) -> Any:
        frame = sys._getframe().f_back
        while frame is not None:
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(PACKAGE):
                rooms.append(file.relative_to(PACKAGE).parts[0])
            frame = frame.f_back
        return await send(channel, *args)

    monkeypatch.setattr(Channel, "send", sending)
    item = Wanted(skus=("A",), names=("A.{ext}",), request={"image": shop.image, "prompt": "on a table"})
    run_shard(Shard(shop.buyer("photoroom")), [item])
    assert list(dict.fromkeys(rooms)) == ["hooks", "buying", "catalogue"]  # and the operator's is the fourth
