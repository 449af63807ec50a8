"""Caps on what is spent, as users write them: per run, day and month, in pictures and in money."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.mistakes import of_fields
from airflow_provider_bgai.storage import split_uri


def _as_typed(value: Any) -> Any:
    """What Python reads as a number and a person does not: ``true`` is no 1, and ``1_0`` no 10."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise ValueError("must be a number")
    return value


class Cap(BaseModel):
    """The most that may be spent: in pictures, in money (the connection's currency), or both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: Annotated[int, BeforeValidator(_as_typed), Field(ge=0)] | None = None
    money: Annotated[Decimal, BeforeValidator(_as_typed), Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Cap:
        if self.pictures is None and self.money is None:
            raise ValueError("a cap needs 'pictures', 'money' or both")
        return self


def _prefix(root: str) -> str:
    split_uri(root)
    return root.rstrip("/")


class Caps(BaseModel):
    """A budget as users write it: ``{"root": "s3://bucket/wallet", "day": {"pictures": 500}, "run": {"money": 10}}``.

    ``root`` names a wallet: an S3 prefix under which all that name it, with the same caps and in one currency, count
    together. Without one a catalogue counts for itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", title="budget")

    root: Annotated[str, AfterValidator(_prefix)] | None = None
    run: Cap | None = None
    day: Cap | None = None
    month: Cap | None = None

    @model_validator(mode="after")
    def _caps_its_wallet(self) -> Caps:
        if self.root is not None and self.run is self.day is self.month is None:
            raise ValueError("a root needs a cap on 'run', 'day' or 'month'")
        return self

    @classmethod
    def read(cls, budget: Any) -> Caps:
        """A budget as a user wrote it; nothing is no cap. :raises InvalidRequestError: naming every wrong field."""
        try:
            return cls.model_validate(budget or {})
        except ValidationError as error:
            raise InvalidRequestError(of_fields("budget", error, budget, cls)) from None

    def check(self, prices: Mapping[str, tuple[Decimal | None, str]]) -> None:
        """Refuse caps in money where prices are unknown or in several currencies.

        :param prices: price per picture and currency, by connection ID.
        :raises InvalidRequestError: naming the cap and the connection.
        """
        for conn_id, (price, _) in prices.items():
            self.check_price(price, f"connection {conn_id!r}")
        capped = self.in_money()
        if capped is not None and len({currency for _, currency in prices.values()}) > 1:
            named = ", ".join(f"{conn_id}: {currency}" for conn_id, (_, currency) in prices.items())
            raise InvalidRequestError(f"budget {capped}: a cap in money needs one currency; there are {named}")

    def check_price(self, price: Decimal | None, connection: str = "the connection") -> None:
        """Refuse an unknown price if there is a cap in money. :raises InvalidRequestError: naming the cap."""
        if price is None and (capped := self.in_money()):
            raise InvalidRequestError(
                f"budget {capped}: a cap in money needs price_per_image in extras of {connection}"
            )

    def in_money(self) -> str | None:
        """A cap in money, as its user wrote it, or None."""
        caps = {"run": self.run, "day": self.day, "month": self.month}
        named = (f"{name}.money={cap.money}" for name, cap in caps.items() if cap and cap.money is not None)
        return next(named, None)
