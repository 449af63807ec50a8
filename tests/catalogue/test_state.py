"""What every published picture was made from comes back as it was written."""

from __future__ import annotations

from airflow_provider_bgai.catalogue.state import SkuState, read_state, write_state


def test_the_state_of_all_skus_comes_back_as_it_was_written(storage, s3):
    root = f"s3://{s3.bucket}/state"
    states = [SkuState(sku=f"é{n}", fingerprint="f", source="1", hint="x y", vendor="picwish") for n in range(100)]
    assert list(read_state(storage, root)) == []
    write_state(storage, root, states)
    assert list(read_state(storage, root)) == states
    assert list(read_state(storage, root, ["é7", "no"])) == [states[7]]
