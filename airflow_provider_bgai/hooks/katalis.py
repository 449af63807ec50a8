"""Katalis: image links in, picture links out, in one call.

Wire facts: Katalis's page "Generate Background Image" (the sample request and answer). It shows no
authentication and no errors, so header and prefix are settings, and anything but ``message: Success`` is a
refusal. Result links are unsigned and guessable: copy them out at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_bgai.exceptions import RefusedError, UnknownOutcomeError
from airflow_provider_bgai.hooks.base import BackgroundHook, read_error
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
    takes_links_only = True

    def check(self, request: BackgroundRequest) -> None:
        self._forbid(request, "seed", "template", "guidance_image", "guidance_scale")
        self._check_options(request, {"image_urls", "background", "result_number"})
        if request.prompt is None:
            raise self._refuse("prompt", None, "Katalis needs a prompt")

    def _needs_key(self) -> bool:
        return False

    def _headers(self) -> dict[str, str]:
        if not self.settings.key:
            return {}
        header = str(self.settings.extra.get("auth_header") or "Authorization")
        prefix = str(self.settings.extra.get("auth_prefix", "Bearer"))
        # Forms cut trailing spaces off, so "Bearer" means "Bearer "; "Key=" and "" are taken as they are.
        gap = " " if prefix[-1:].isalnum() else ""
        return {header: prefix + gap + self.settings.key}

    async def _submit(self, request: BackgroundRequest) -> Generation:
        # One image a call, although the vendor takes several: a fault then concerns one picture.
        url = await self._as_url("image", request.image)
        body: dict[str, Any] = {
            "image_urls": [url],
            "background": {"prompt": request.prompt, "negative_prompt": request.negative_prompt or ""},
            "result_number": request.count,
            **request.options,
        }
        answer = await self._call("POST", "/service/v1/generate-image", paid=True, json=body)
        content = answer.json
        if not isinstance(content, Mapping):
            raise self._error(UnknownOutcomeError, f"status 200, but no JSON: {answer.excerpt()!r}")
        if str(content.get("message", "")).lower() != "success":
            code, message = read_error(content)
            raise self._error(RefusedError, message or answer.excerpt(), code=code, status=answer.status)
        images = _links(content.get("data"), url)
        if not images:
            raise self._error(UnknownOutcomeError, f"success, but no picture: {answer.excerpt()!r}")
        missing = request.count - len(images)
        warnings = (f"{len(images)} of {request.count} pictures were returned",) if missing > 0 else ()
        return Generation(vendor=self.vendor, state="succeeded", images=images, warnings=warnings)


def _links(data: Any, url: str) -> tuple[str, ...]:
    """The result links of our image: the entry that names it, else the first one."""
    entries = [entry for entry in data if isinstance(entry, Mapping)] if isinstance(data, list) else [data]
    entries = [entry for entry in entries if isinstance(entry, Mapping)]
    named = [entry for entry in entries if entry.get("original_image_url") == url]
    for entry in named or entries[:1]:
        # The sample says generated_image_urls, the text below it img_url.
        for name in ("generated_image_urls", "img_url", "image_url"):
            value = entry.get(name)
            links = [value] if isinstance(value, str) else value if isinstance(value, list) else []
            found = tuple(link for link in links if isinstance(link, str) and link)
            if found:
                return found
    return ()
