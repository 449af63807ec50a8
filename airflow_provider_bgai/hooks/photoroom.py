"""Photoroom: one picture in, one picture out, in one call, with many parameters.

Wire facts: Photoroom's page "AI Backgrounds" (models, prompt, seed, guidance) and its OpenAPI description of
``/v2/edit`` (GET takes links in the query, POST takes files in a form; parameters; headers; errors).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from airflow_provider_bgai.exceptions import UnknownOutcomeError
from airflow_provider_bgai.hooks.base import BackgroundHook, sendable_header
from airflow_provider_bgai.models import BackgroundRequest, Generation, SourceLimits

MAX_FILE = 30 * 1024 * 1024
# Public clients' notes; Photoroom removes backgrounds itself.
SOURCE = SourceLimits(formats=("png", "jpg", "webp"), needs_alpha=False, max_side=5000, max_bytes=30_000_000)
# Beyond this many bytes of query, proxies and servers start to refuse a URL; the request is posted then.
MAX_QUERY = 6000

# What a shop's cut-out needs and the vendor's own defaults do not give: keep the cut-out's edges instead of
# cutting it out again, and leave the product where it is in the frame. `options` override both.
DEFAULTS: Mapping[str, str] = {"keepExistingAlphaChannel": "auto", "referenceBox": "originalImage"}

MODEL_HEADER = "pr-ai-background-model-version"


class PhotoroomHook(BackgroundHook):
    """Photoroom: one picture a call, by prompt, guidance image or both, with a seed.

    ``options`` pass any parameter of ``/v2/edit`` by its own name (``outputSize``, ``shadow.mode``,
    ``export.format``, …; None leaves a default out) and any header that starts with ``pr-``. The model is
    the connection's ``model_version``, or ``options["pr-ai-background-model-version"]``.
    """

    conn_type = "bgai_photoroom"
    hook_name = "Photoroom"
    default_conn_name = "photoroom_default"
    vendor = "photoroom"
    base_url = "https://image-api.photoroom.com"
    source = SOURCE
    default_requests_per_minute = 60

    def check(self, request: BackgroundRequest) -> None:
        self._forbid(request, "template")
        own = {"imageFile", "imageUrl", "background.prompt", "background.negativePrompt", "background.seed"}
        own |= {"background.guidance.imageFile", "background.guidance.imageUrl", "background.guidance.scale"}
        self._check_options(request, own)
        for name, value in request.options.items():
            if name.startswith("pr-") and value and not sendable_header(name, str(value)):
                raise self._refuse(f"options[{name!r}]", value, "holds characters that no header takes")
        if request.count != 1:
            raise self._refuse("count", request.count, "Photoroom makes 1 picture a call; ask again with another seed")
        options = request.options
        static = [
            name for name in ("background.imageUrl", "background.imageFile", "background.color") if options.get(name)
        ]
        if request.prompt is None and request.guidance_image is None and not static:
            raise self._refuse("prompt", None, "Photoroom needs a prompt, a guidance image, or both")
        if request.prompt is not None and static:
            raise self._refuse(f"options[{static[0]!r}]", options[static[0]], "excludes a prompt")
        if request.guidance_scale is not None and request.guidance_image is None:
            raise self._refuse("guidance_scale", request.guidance_scale, "needs a guidance_image")
        removes = str(options.get("removeBackground", "true")).lower() != "false"
        if request.guidance_image is not None and not removes:
            raise self._refuse("guidance_image", "given", "is not allowed with removeBackground=false")
        for field in ("image", "guidance_image"):
            source = getattr(request, field)
            if isinstance(source, bytes):
                self._check_size(field, source)

    def _headers(self) -> dict[str, str]:
        return {"x-api-key": self._key()}

    async def _submit(self, request: BackgroundRequest) -> Generation:
        headers = {name: str(value) for name, value in request.options.items() if name.startswith("pr-") and value}
        model = headers.get(MODEL_HEADER) or self.settings.extra.get("model_version")
        if model:
            headers[MODEL_HEADER] = str(model)
        ignored = self._ignored(request, str(model or ""))
        fields = self._fields(request)
        links = self._links(request)
        if links is not None and len(urlencode(fields | links)) <= MAX_QUERY:
            # An empty `params` value would be sent as an empty parameter; none is left in here.
            answer = await self._call("GET", "/v2/edit", paid=True, params=fields | links, headers=headers)
        else:
            # There is no documented form for a file beside a link, so links are fetched and posted too.
            parts: dict[str, Any] = {name: (None, value) for name, value in fields.items()}
            parts["imageFile"] = await self._file("image", request.image)
            if request.guidance_image is not None:
                parts["background.guidance.imageFile"] = await self._file("guidance_image", request.guidance_image)
            answer = await self._call("POST", "/v2/edit", paid=True, files=parts, headers=headers)
        if not answer.is_picture:
            raise self._error(UnknownOutcomeError, f"status 200, but no picture: {answer.excerpt()!r}")
        unsupported = self._redact(answer.headers.get("pr-unsupported-attributes", "").strip())
        seed = answer.headers.get("pr-ai-background-seed", "")
        return Generation(
            vendor=self.vendor,
            state="succeeded",
            images=(answer.body,),
            seed=int(seed) if seed.isascii() and seed.isdigit() else request.seed,
            model=str(model) if model else None,
            warnings=(*ignored, *((unsupported,) if unsupported else ())),
        )

    def _fields(self, request: BackgroundRequest) -> dict[str, str]:
        values: dict[str, Any] = {**DEFAULTS}
        if str(request.options.get("removeBackground", "true")).lower() == "false":
            values.clear()  # both defaults are about the cut-out, and referenceBox is refused without one
        values |= {name: value for name, value in request.options.items() if not name.startswith("pr-")}
        values["background.prompt"] = request.prompt
        values["background.negativePrompt"] = request.negative_prompt
        values["background.seed"] = request.seed
        values["background.guidance.scale"] = request.guidance_scale
        if isinstance(color := values.get("background.color"), str):
            values["background.color"] = color.removeprefix("#")
        return {name: _text(value) for name, value in values.items() if value not in (None, "")}

    def _links(self, request: BackgroundRequest) -> dict[str, str] | None:
        """The query's image links, or None if not every image is a link."""
        named = {"imageUrl": request.image, "background.guidance.imageUrl": request.guidance_image}
        links = {name: source for name, source in named.items() if source is not None}
        if all(isinstance(link, str) and link.startswith(("http://", "https://")) for link in links.values()):
            return {name: str(link) for name, link in links.items()}
        return None

    async def _file(self, field: str, source: str | bytes) -> tuple[str, bytes, str]:
        data = await self.load_image(field, source)
        self._check_size(field, data)
        picture = await self._read_picture(field, data)
        return f"{field}.{picture.extension}", data, picture.content_type

    def _check_size(self, field: str, data: bytes) -> None:
        if len(data) > MAX_FILE:
            raise self._refuse(field, f"{len(data):,} bytes", f"at most {MAX_FILE:,} bytes")

    def _ignored(self, request: BackgroundRequest, model: str) -> tuple[str, ...]:
        """What the chosen model ignores in silence, as the vendor's page says."""
        if request.negative_prompt is not None and model != "2":
            return ("the negative prompt has an effect on model 2 only",)
        if request.guidance_scale is not None and model == "2":
            return ("the guidance scale has no effect on model 2",)
        return ()

    async def _test(self) -> tuple[bool, str]:
        answer = await self._call("GET", "/v2/account", paid=False)
        try:
            images = answer.json["images"]
            plan = answer.json.get("plan", "unknown")
            return (
                True,
                f"The key is valid; plan {plan}, {images['available']} of {images['subscription']} images left",
            )
        except (KeyError, TypeError):
            return True, f"The key was accepted, but the answer has an unknown form: {answer.excerpt()!r}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
