"""People's mistakes in words: what S3 refuses and fields that are not there; the rest stands in tests/operators."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from pydantic import BaseModel, ConfigDict, ValidationError

from airflow_provider_bgai.exceptions import ManifestError, SourceError
from airflow_provider_bgai.mistakes import may_pass, of_fields, of_store, reading


def refused(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


@pytest.mark.parametrize(
    ("error", "words", "passes"),
    [
        (refused("NoSuchBucket", 404), "there is no bucket 'shop': create it, or name one that is there", False),
        (
            refused("InvalidAccessKeyId", 403),
            "the key of connection 'mine' (InvalidAccessKeyId): its login",
            False,
        ),
        (NoCredentialsError(), "there are no credentials for S3: create a connection 'mine' of type aws", True),
        (refused("AccessDenied", 403), None, False),
        (refused("SlowDown", 503), None, True),
        (EndpointConnectionError(endpoint_url="http://s3"), None, True),
    ],
)
def test_what_a_person_has_to_mend_is_told_from_what_may_pass(error, words, passes):
    found = of_store(error, "s3://shop/a.csv", "mine")
    assert (found is None) == (words is None)
    assert words is None or words in str(found)
    assert may_pass(error) is passes


def test_what_is_not_there_is_told_apart_from_what_cannot_be_read_for_now(storage, bad, through_bad, s3):
    with pytest.raises(ManifestError, match="^p.csv: there is no such object in S3$"):
        read(storage, f"s3://{s3.bucket}/no.csv")
    with pytest.raises(ManifestError, match="^p.csv: there is no bucket 'no-bucket'"):
        read(storage, "s3://no-bucket/no.csv")
    bad.fault("503")
    with pytest.raises(SourceError, match="^p.csv: cannot be read for now: .*SlowDown"):
        read(through_bad, f"s3://{s3.bucket}/no.csv")


def read(storage: Any, uri: str) -> None:
    with reading("p.csv", uri, storage, ManifestError):
        storage.read(uri)


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    frame: Inner | None = None
    frames: dict[str, Inner] = {}
    link: int | None = None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fram": 1}, "it, fram=1: there is no such field; is frame meant?"),
        ({"zzz": 1}, "it, zzz=1: there is no such field; there are frame, frames, link"),
        ({"frame": {"widht": 1}}, "it, frame.widht=1: there is no such field; is width meant?"),
        ({"frames": {"a": {"zzz": 1}}}, "it, frames.a.zzz=1: there is no such field; there are width"),
        ({"frame": {"width": "x"}}, 'it, frame.width="x": Input should be a valid integer'),
        ({"link": "https://u:p@host/a?signature=s"}, 'it, link="https://host/a": Input should be a valid integer'),
        (5, "it: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_with_what_may_stand_there(given, words):
    with pytest.raises(ValidationError) as error:
        Outer.model_validate(given)
    assert of_fields("it", error.value, given, Outer).startswith(words)
