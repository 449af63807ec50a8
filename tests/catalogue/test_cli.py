"""``bgai-ledger``: what it prints, what it exits with, and what it writes down."""

from __future__ import annotations

import pytest

from airflow_provider_bgai.catalogue.cli import main
from tests.buying.kept import ROOT, call


@pytest.fixture
def told(kept, monkeypatch, capsys):
    """``told("costs", …)``: exit code, and what was printed."""
    monkeypatch.setattr("airflow_provider_bgai.catalogue.cli.Storage", lambda conn_id: kept.storage)

    def run(command: str, *arguments: str) -> tuple[int, str]:
        try:
            code = main([command, ROOT, *arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        out = capsys.readouterr()
        return code, out.out + out.err

    return run


def test_the_command_tells_costs_and_bounds(kept, told):
    kept.book("night-1", call(1), call(2, "unknown"))
    code, text = told("costs", "--month", "2026-11")
    assert (code, text.splitlines()[-1].split()[:2]) == (0, ["all", "1"])
    assert "run night-1" in text
    assert told("bounds") == (0, "picwish: at least 1, at most 2 picture(s)\n")
    assert told("costs", "--month", "11/2026")[0] == 2


def test_the_command_finds_records_that_are_gone_and_writes_them_anew(kept, told):
    one = call(1)
    kept.book("night-1", one, call(2))
    assert told("audit")[0] == 0
    kept.storage.delete(kept.layout.call(one.fingerprint, 1))
    code, text = told("audit")
    assert code == 1
    assert one.call_id in text
    assert told("restore") == (0, "1 record(s) written anew from the books\n")
    assert told("audit")[0] == 0
    found = kept.ledger.read(one.fingerprint, 1)
    assert (found.state, found.call_id) == ("landed", one.call_id)


def test_the_command_writes_decisions_down_by_wish_or_by_product(kept, told):
    from airflow_provider_bgai.catalogue.results import Result
    from airflow_provider_bgai.lines import dump_lines

    held = call(1, "sent", sku="mug-1")
    kept.open(held)
    code, text = told("release", held.fingerprint)
    assert (code, held.call_id in text) == (0, True)
    layout = kept.layout
    assert b'"release"' in kept.storage.read(layout.decision(held.fingerprint, 1))
    outcome = Result(sku="mug-1", outcome="held", fingerprint=held.fingerprint)
    kept.storage.put(layout.run("night-1").outcomes, dump_lines([outcome]))
    assert told("keep", "--sku", "mug-1")[0] == 0
    assert b'"keep"' in kept.storage.read(layout.decision(held.fingerprint, 1))
    assert told("buy", held.fingerprint, "--seed", "42", "--conn-id", "photoroom_default")[0] == 0
    note = kept.storage.read(layout.decision(held.fingerprint, 1))
    assert b'"seed":42' in note
    assert b'"conn_id":"photoroom_default"' in note
    assert told("accept", held.fingerprint)[0] == told("keep", held.fingerprint, "--seed", "42")[0] == 2
    assert told("keep", "--sku", "mug-2")[0] == told("buy", "0" * 64)[0] == told("buy")[0] == 2
