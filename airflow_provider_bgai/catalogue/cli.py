"""``bgai-ledger``: what was paid, what is open, and what a person decides about a call. It deletes no record.

Exit code 0; 1 if records are gone (``audit``); 2 if something was asked that makes no sense.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

from airflow_provider_bgai.buying import books
from airflow_provider_bgai.buying.calls import Ledger
from airflow_provider_bgai.buying.decisions import decide_about
from airflow_provider_bgai.buying.record import Call
from airflow_provider_bgai.catalogue.report.costs import catalogue_costs
from airflow_provider_bgai.catalogue.review import wish_of, write_answer
from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage

DECISIONS = {
    "release": "let go of a held call, so that its wish may be bought again",
    "keep": "hold a call on, whatever its hold says",
    "buy": "buy a wish again: it is in quarantine, was paid in vain too often, or does not please",
    "accept": "publish a picture that is in quarantine, or was rejected",
    "reject": "take a picture out of the shop, and buy no other by itself",
}

ANSWERS = {
    "approve": "let a run that waits for its review be published",
    "refuse": "do not let a run that waits for its review be published",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say."""
    args = _parser().parse_args(argv)
    ledger = Ledger(Storage(args.aws_conn_id), args.destination)
    try:
        code: int = args.does(ledger, args)
    except InvalidRequestError as error:
        _parser().error(str(error))
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bgai-ledger", description="What was paid for pictures, and what is open.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, does: object, help_: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_, description=help_)
        command.add_argument("destination", help="s3://bucket/prefix of the catalogue, or of a ledger of its own")
        command.add_argument("--aws-conn-id", default="aws_default", help="Airflow connection (default: %(default)s)")
        command.set_defaults(does=does, what=name)
        return command

    for command in (
        add("costs", _costs, "what all calls cost, by vendor, category and run"),
        add("bounds", _bounds, "what each vendor's counter must lie between"),
    ):
        help_ = "only calls sent in that month (UTC), like 2026-11"
        command.add_argument("--month", metavar="YYYY-MM", type=_month, help=help_)
    add("audit", _audit, "compare all records with the books; once a month is enough")
    add("restore", _restore, "write records that are gone anew from the books")
    for name, help_ in ANSWERS.items():
        command = add(name, _answer, help_)
        command.add_argument("run", help="its name, as the task that waits says it")
    for name, help_ in DECISIONS.items():
        command = add(name, _decide, help_)
        command.set_defaults(seed=None, conn_id=None)
        if name == "buy":
            command.add_argument("--seed", type=int, help="another one, of a vendor that takes seeds")
            command.add_argument("--conn-id", help="the run's connection that it is to be bought from")
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument("fingerprint", nargs="?", help="of the wish, as records and errors name it")
        which.add_argument("--sku", help="the product instead: its wish in the latest run, or what is published of it")
    return parser


def _month(text: str) -> str:
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", text):
        raise argparse.ArgumentTypeError(f"{text!r}: must be a month like 2026-11")
    return text


def _costs(ledger: Ledger, args: argparse.Namespace) -> int:
    _say(catalogue_costs(ledger.storage, ledger.layout.root, args.month).as_text())
    return 0


def _bounds(ledger: Ledger, args: argparse.Namespace) -> int:
    for vendor, (paid, perhaps) in books.bounds(ledger, args.month).items():
        _say(f"{vendor}: at least {paid}, at most {paid + perhaps} picture(s)")
    return 0


def _audit(ledger: Ledger, args: argparse.Namespace) -> int:
    found = books.audit(ledger)
    _say(f"{found.calls} record(s) of calls below {ledger.layout.root}")
    _list(found.unbooked, "stood neither in the books nor in open/: marked again, and booked where they had ended")
    _list(found.unrecorded, "stand in the books and have no record any more. To write them anew: bgai-ledger restore")
    return 1 if found.unrecorded else 0


def _restore(ledger: Ledger, args: argparse.Namespace) -> int:
    _say(f"{books.restore(ledger, books.audit(ledger).unrecorded)} record(s) written anew from the books")
    return 0


def _decide(ledger: Ledger, args: argparse.Namespace) -> int:
    import getpass

    fingerprint = args.fingerprint or wish_of(ledger, args.sku)
    by, more = getpass.getuser(), {"seed": args.seed, "conn_id": args.conn_id}
    call = decide_about(ledger, fingerprint, args.what, by=by, **more)
    _say(f"{args.what}: {call.what}, sent by {call.run} for {call.sku or 'no SKU'}. The next run goes by it")
    return 0


def _answer(ledger: Ledger, args: argparse.Namespace) -> int:
    import getpass

    run = ledger.layout.run(args.run)
    if ledger.storage.head(run.plan) is None:
        raise InvalidRequestError(f"{args.run!r}: there is no such run below {ledger.layout.root}")
    write_answer(ledger.storage, run, args.what, by=getpass.getuser())
    _say(f"{args.what}: {args.run}. The task that waits for it goes by it")
    return 0


def _list(calls: Iterable[Call], what: str) -> None:
    calls = list(calls)
    if calls:
        _say(f"{len(calls)} {what}")
    for call in calls:
        _say(f"  {call.fingerprint}.{call.number:03} {call.state}: {call.what}, sent by {call.run}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
