"""One wish, from its source to its landed picture, paid once."""

from __future__ import annotations

import pytest

from airflow_provider_bgai.buying.record import error_of
from tests.conftest import VENDORS


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_picture_is_bought_once_and_found_again(shop, vendor):
    first = shop.buy(shop.wish(new=True), vendor)
    again = shop.buy(shop.wish("on a table \n"), vendor, run="night-2")

    assert (first.state, again.call_id) == ("landed", first.call_id), error_of(first)
    assert shop.box.bill()[vendor] == 1
    assert shop.bounds() == {vendor: (1, 0)}
