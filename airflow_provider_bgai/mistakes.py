"""People's mistakes in words for whoever has to mend them: a bucket or key that S3 refuses, a field that is not there.

Nothing is decided here on what was paid: these words are for what is read and tried before a payment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from airflow_provider_bgai.exceptions import BgaiError, SourceError
from airflow_provider_bgai.storage import Storage, split_uri, store_errors

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_KEY_REFUSED = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "ExpiredToken",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}


def of_store(error: Exception, uri: str, aws_conn_id: str | None) -> str | None:
    """What a person has to mend before S3 does this, in words; None where it is something else.

    :param error: what S3 or the way to it has raised.
    :param uri: what was asked for.
    """
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    connection = f"connection {aws_conn_id!r} of type aws" if aws_conn_id else "connection of type aws"
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return (
            f"there are no credentials for S3: create a {connection}, with the access key ID as its login and the "
            "secret access key as its password"
        )
    code = _code(error)
    if code == "NoSuchBucket":
        return _no_bucket(split_uri(uri)[0])
    if code in _KEY_REFUSED:
        return (
            f"S3 does not take the key of {f'connection {aws_conn_id!r}' if aws_conn_id else 'this machine'} ({code}): "
            "its login must be the access key ID, and its password the secret access key"
        )
    return None


def may_pass(error: Exception) -> bool:
    """Whether trying again may help: S3 cannot be reached or fails, and says nothing of the request."""
    from botocore.exceptions import BotoCoreError

    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return isinstance(error, BotoCoreError) or status in (500, 502, 503, 504)


@contextmanager
def reading(what: str, uri: str, storage: Storage, kind: type[BgaiError]) -> Iterator[None]:
    """Around the reading of an object that a person has named: what goes wrong, in words.

    :param what: how the object is named in messages, which begin with it.
    :raises kind: if there is no such object, and where a person has to mend something.
    :raises SourceError: if it cannot be read for now.
    """
    try:
        yield
    except FileNotFoundError:
        raise kind(f"{what}: {_missing(uri, storage)}") from None
    except store_errors() as error:
        if (problem := of_store(error, uri, storage.aws_conn_id)) is not None:
            raise kind(f"{what}: {problem}") from None
        raise SourceError(f"{what}: cannot be read for now: {error}") from None


def _missing(uri: str, storage: Storage) -> str:
    """What is not there: S3 does not say so of an object that is asked for by its head alone."""
    bucket = split_uri(uri)[0]
    try:
        storage.client.head_bucket(Bucket=bucket)
    except store_errors() as error:
        if _code(error) == "404":
            return _no_bucket(bucket)
    return "there is no such object in S3"


def _no_bucket(bucket: str) -> str:
    return f"there is no bucket {bucket!r}: create it, or name one that is there"


def _code(error: Any) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def shown(address: str) -> str:
    """An address without what may be a key: query, user and password."""
    return re.sub(r"(?<=://)[^/]*@", "", address.partition("?")[0]) if "://" in address else address


def of_fields(where: str, error: ValidationError, given: Mapping[str, Any], model: type[BaseModel]) -> str:
    """What is wrong with fields that a person has written, a line each: the place, the value and the rule.

    :param where: what they stand in.
    """
    return "\n".join(_of_field(where, each, given, model) for each in error.errors())


def _of_field(where: str, error: Any, given: Mapping[str, Any], model: type[BaseModel]) -> str:
    # Of a union (text or number) the path names the member that was tried as well; a reader looks for the field.
    members = {"str", "int", "function-after[check_template(), str]", "constrained-str"}
    path = [str(part) for part in error["loc"] if str(part) not in members]
    value: Any = given
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    value = shown(value) if isinstance(value, str) else value
    assigned = f"={json.dumps(value, default=str)[:80]}" if path and not isinstance(value, Mapping) else ""
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        message = f"there is no such field{_advice(path[-1], _fields_at(model, path[:-1]))}"
    return f"{where}, {'.'.join(path)}{assigned}: {message}" if path else f"{where}: {message}"


def _advice(name: str, fields: Collection[str]) -> str:
    if near := get_close_matches(name, fields, n=1):
        return f"; is {near[0]} meant?"
    return f"; there are {', '.join(fields)}" if fields else ""


def _fields_at(model: type[BaseModel] | None, path: Sequence[str]) -> Collection[str]:
    """The fields that may stand at a place; none where that is not known. Keys of a mapping are passed over."""
    for part in path:
        if model is not None and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return model.model_fields if model is not None else ()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for each in get_args(annotation) if (found := _model_in(each)) is not None), None)
