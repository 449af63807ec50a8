"""Katalis: image links in, picture links out, in one call.

Wire facts: Katalis's page "Generate Background Image" (the sample request and answer). It shows no
authentication and no errors, so header and prefix are settings, and an answer without pictures says neither yes nor
no. Its word of success is an example ("e.g., Success"), so pictures are a success beside any word. Result links are
unsigned and guessable: copy them out at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_bgai.hooks import images
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.hooks.channel import Outgoing
from airflow_provider_bgai.hooks.meaning import Answer
from airflow_provider_bgai.hooks.vendor import as_text
from airflow_provider_bgai.models import BackgroundRequest, Generation


class KatalisHook(BackgroundHook):
    """Katalis: any number of pictures a call, by prompt and negative prompt; links only, no seeds.

    An ``s3://`` image is handed over as a presigned link, a local one is staged in S3 first (``staging``).
    ``options`` are added to the JSON body as they are.
    """

    conn_type = "bgai_katalis"
    hook_name = "Katalis"
    default_conn_name = "katalis_default"
    vendor = "katalis"
    base_url = "https://dev-api.katalis.ai"
    fields = frozenset({"prompt", "negative_prompt"})
    needs_key = False
    takes_links_only = True

    def check_own(self, request: BackgroundRequest) -> None:
        self.forbid_options(request, {"image_urls", "background", "result_number"})
        if request.prompt is None:
            raise self.refuse("prompt", None, "Katalis needs a prompt")

    def headers(self) -> dict[str, str]:
        if not self.settings.key:
            return {}
        header = str(self.settings.extra.get("auth_header") or "Authorization")
        prefix = str(self.settings.extra.get("auth_prefix", "Bearer"))
        # Forms cut trailing spaces off, so "Bearer" means "Bearer "; "Key=" and "" are taken as they are.
        gap = " " if prefix[-1:].isalnum() else ""
        return {header: prefix + gap + self.settings.key}

    def wire_fields(self, request: BackgroundRequest) -> dict[str, str]:
        values = {
            "background.prompt": request.prompt,
            "background.negative_prompt": request.negative_prompt,
            "result_number": request.count,
            **request.options,
        }
        return {name: _text(value) for name, value in values.items() if value is not None}

    async def compose(self, request: BackgroundRequest) -> Outgoing:
        # One image a call, although the vendor takes several: a fault then concerns one picture.
        link = await images.link_to(self, "image", request.image)
        body: dict[str, Any] = {
            "image_urls": [link],
            "background": {"prompt": request.prompt, "negative_prompt": request.negative_prompt or ""},
            "result_number": request.count,
            **request.options,
        }
        path = "/service/v1/generate-image"
        return Outgoing(method="POST", path=path, json=body, count=request.count, link=link)

    def read(self, answer: Answer, outgoing: Outgoing) -> Generation | None:
        found = read_links(answer.fields, outgoing.link)
        return Generation(vendor=self.vendor, state="succeeded", images=found) if found else None

    def pictures(self, body: bytes) -> tuple[bytes | str, ...]:
        return read_links(Answer(200, {}, body).fields)


def read_links(body: Mapping[str, Any], source: str | None = None) -> tuple[str, ...]:
    """The result links for our image: of the entries that name it, else of all, since one image was sent.

    :param source: our image's link, which is no result.
    """
    data = body.get("data", body)
    entries = [entry for entry in (data if isinstance(data, list) else [data]) if isinstance(entry, Mapping)]
    named = [entry for entry in entries if source and entry.get("original_image_url") == source]
    return tuple(link for entry in named or entries for link in _links(entry) if link != source)


def _links(entry: Mapping[str, Any]) -> list[str]:
    # The sample says generated_image_urls, the text below it img_url.
    for name in ("generated_image_urls", "img_url", "image_url"):
        value = entry.get(name)
        values = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        if found := [link for link in values if isinstance(link, str) and images.is_link(link)]:
            return found
    return []


def _text(value: Any) -> str:
    """A value as canonical text, in which 0.1 and "0.1" are one."""
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if value is None else as_text(value)
