"""One shop with one product, to buy pictures for: through real hooks from the sandbox, into a real S3."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from airflow_provider_bgai.buying.books import book, bounds
from airflow_provider_bgai.buying.buyer import Buyer
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.collector import Account, settle_all
from airflow_provider_bgai.buying.purchase import Wish
from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.hooks import get_hook
from airflow_provider_bgai.models import BackgroundRequest
from airflow_provider_bgai.polling import PollPolicy
from airflow_provider_bgai.sandbox import Sandbox
from airflow_provider_bgai.storage import Storage
from tests.bad_s3 import BadS3

OFTEN = PollPolicy(interval=0.1)
"""The sandbox is done sooner than any vendor."""


@dataclass
class Shop:
    """Buys pictures of one product.

    :param storage: the S3 that the ledger is kept in; another one (a bad one) may be set.
    """

    storage: Storage
    root: str
    image: str
    box: Sandbox
    calls: list[Call] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.storage, self.root)

    def wish(self, prompt: str = "on a table", *, count: int = 1, **more: Any) -> Wish:
        return Wish(BackgroundRequest(self.image, prompt, count=count), **more)

    def buyer(self, *vendors: str, run: str = "night-1", **more: Any) -> Buyer:
        """:param more: as :class:`Buyer` takes it."""
        hooks = []
        for vendor in vendors or ("picwish",):
            hook = get_hook(f"{vendor}_default", staging=self.ledger.layout.staged)
            hook.storage = self.storage
            _ = hook.settings
            hooks.append(hook)
        return Buyer(hooks, self.ledger, run=run, owner=more.pop("owner", f"{run}/0000"), **more)

    def buy(self, wish: Wish | None = None, *vendors: str, timeout: float = 20.0, **more: Any) -> Call:
        """Buy a wish and bring it to its end, in a process of its own as far as anybody can tell; book it."""

        async def work() -> Call:
            buyer = self.buyer(*vendors, **more)
            try:
                purchase = await buyer.open(wish or self.wish())
                call = await buyer.begin(purchase)
                if call.state == "answered":
                    call = await buyer.collect(call, timeout=timeout, source=purchase.source.data, policy=OFTEN)
                return call
            finally:
                await asyncio.to_thread(book, self.ledger, buyer.run, buyer.ended.values())
                await buyer.aclose()

        return asyncio.run(work())

    def leave(self, *vendors: str, **more: Any) -> Call:
        """Buy as a process that ends with the answer: a task is not collected, and nothing is booked."""

        async def work() -> Call:
            buyer = self.buyer(*vendors, **more)
            try:
                return await buyer.begin(await buyer.open(self.wish(new=True)))
            finally:
                await buyer.aclose()

        return asyncio.run(work())

    def settle(self, run: str, account: Account = lambda conn_id: None) -> list[Call]:
        """What a later run books that names no connection itself."""
        return settle_all(self.ledger, account, run)

    def bounds(self) -> dict[str, tuple[int, int]]:
        """Pictures paid for certain and perhaps, by vendor, as the books and what is open say."""
        return bounds(self.ledger)


@pytest.fixture
def shop(
    s3: Any, storage: Storage, upload: Callable[..., str], product: bytes, box: Sandbox, connections: None, request: Any
) -> Shop:
    name = request.node.name.replace("[", "-").replace("]", "")
    return Shop(storage, f"s3://{s3.bucket}/{name}", upload(f"{name}-source.png", product), box)


@pytest.fixture
def ill(shop: Shop, bad: BadS3, monkeypatch: pytest.MonkeyPatch) -> BadS3:
    """A bad S3 that the shop keeps its ledger in. Each request is tried once, and what was paid for 3 s long."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("airflow_provider_bgai.storage.PATIENCE", 3.0)
    shop.storage = Storage("aws_default")
    assert shop.storage.client is not None
    return bad
