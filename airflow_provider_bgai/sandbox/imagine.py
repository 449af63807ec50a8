"""Imagine (Vyro): one picture in, one picture out, in the same answer.

Source: Vyro "AI Backgrounds API" page; error codes from Vyro's "Error Documentation" page.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from airflow_provider_bgai.sandbox import paint
from airflow_provider_bgai.sandbox.vendor import Call, Endpoint, Vendor, check_form, check_picture, digest


class Imagine(Vendor):
    name = "imagine"
    key = "vk-imagine-test-key"
    price_per_image = 0.05
    answers = "bytes"

    def endpoints(self) -> list[Endpoint]:
        return [Endpoint("POST", "/v2/image/generations/ai-background", "submit", self.submit)]

    def example(self, picture: bytes, link: str) -> dict[str, Any]:
        return {
            "method": "POST",
            "url": "/v2/image/generations/ai-background",
            "headers": {"Authorization": f"Bearer {self.key}"},
            "data": {"prompt": "a beach"},
            "files": {"image": ("product.png", picture)},
        }

    def read_key(self, request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def refusal(self, problem: str, message: str = "") -> Response:
        """``{"status": "error", "code": 1100, "error": ..., "message": ...}``; an expired token is 406."""
        status, code, error, text = {
            "invalid": (400, 1100, "Bad Request", "The request is invalid."),
            "no_key": (400, 1000, "Bad Request", "The bearer token is missing."),
            "bad_key": (401, 1001, "Unauthorized", "The provided API key is invalid."),
            "expired_key": (406, 1002, "Not Acceptable", "The bearer token has expired."),
            "quota_spent": (402, 1101, "Payment Required", "You do not have enough tokens."),
            "moderation": (400, 1100, "Bad Request", "The prompt was flagged by content moderation."),
            "rate_limited": (429, 1202, "Too Many Requests", "Excessive requests."),
            "server_error": (500, 1500, "Internal Server Error", "Something went wrong."),
            "unavailable": (503, 1200, "Service Unavailable", "The service is not available."),
        }[problem]
        body = {"status": "error", "code": code, "error": error, "message": message or text}
        return JSONResponse(body, status_code=status)

    def check_key(self, call: Call) -> None:
        """As everywhere, and a key that begins with ``expired`` has expired."""
        super().check_key(call)
        if call.key.startswith("expired"):
            raise call.refuse("expired_key")

    async def submit(self, call: Call) -> Response:
        self.check_key(call)
        check_form(call, fields={"prompt", "style", "seed"}, files={"image"})
        prompt = call.fields.get("prompt", "")
        call.require(prompt, "prompt is required.")
        call.require("image" in call.files, "image is required.")
        style = call.fields.get("style", "product-shoot")
        call.require(style == "product-shoot", f"style {style} does not exist.")
        seed = call.integer("seed", 1)
        source = call.files["image"].content
        await check_picture(call, "image", source)
        picture = await asyncio.to_thread(paint.paint, source, prompt, seed or call.state.new_seed(), 0)
        await asyncio.sleep(call.state.latency(self.name))
        call.charge(1, {"image": digest(source), "prompt": prompt, "style": style, "seed": seed})
        return Response(picture, media_type="application/octet-stream")
