"""gpt.ge: PicWish's engine behind another door, with up to four pictures, a synchronous mode and a callback.

Source: gpt.ge "Task: Add Background to Image" page and its page on task results.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from airflow_provider_bgai.sandbox.picwish import MAX_PROMPT, Engine
from airflow_provider_bgai.sandbox.state import Task
from airflow_provider_bgai.sandbox.vendor import Call, Endpoint, check_form, is_url


class GptGe(Engine):
    name = "gptge"
    key = "sk-gptge-test-key"
    price_per_image = 0.02
    single_image_slot = True  # the page's example answers one picture in "image", not in "image_1"

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("POST", "/task/pic/background", "submit", self.submit),
            Endpoint("GET", "/task/{task_id}", "poll", self.poll),
            Endpoint("GET", "/results/gptge/{path:path}", "download", self.download),
        ]

    def example(self, picture: bytes, link: str) -> dict[str, Any]:
        return {
            "method": "POST",
            "url": "/task/pic/background",
            "headers": {"Authorization": f"Bearer {self.key}"},
            "data": {"prompt": "a beach", "batch_size": "1"},
            "files": {"image_file": ("product.png", picture)},
        }

    def read_key(self, request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def refusal(self, problem: str, message: str = "") -> Response:
        """Two envelopes: the engine's own for what is wrong with a request, the gateway's for the account."""
        engine = {
            "invalid": (400, "Invalid parameter"),
            "not_found": (404, "Not found"),
            "too_large": (413, "File too large"),
            "rate_limited": (429, "Too many requests"),
        }
        if problem in engine:
            status, text = engine[problem]
            return JSONResponse({"status": status, "message": message or text}, status_code=status)
        status, text, code = {
            "no_key": (401, "no token was given", ""),
            "bad_key": (401, "invalid token", ""),
            "quota_spent": (403, "user quota is not enough", "insufficient_user_quota"),
            "moderation": (400, "sensitive words detected", "sensitive_words_detected"),
            "server_error": (500, "internal server error", "do_request_failed"),
            "unavailable": (503, "no available channel", "model_not_found"),
        }[problem]
        error = {
            "message": f"{message or text} (request id: sandbox)",
            "type": "v_api_error",
            "param": "",
            "code": code,
        }
        return JSONResponse({"error": error}, status_code=status)

    async def submit(self, call: Call) -> Response:
        self.check_key(call)
        check_form(call, fields={"image_url", "batch_size", "prompt", "sync", "callback_url"}, files={"image_file"})
        self.check_source(call)
        prompt, callback = call.fields.get("prompt", ""), call.fields.get("callback_url", "")
        call.require(prompt, "prompt is required")
        call.require(len(prompt) <= MAX_PROMPT, "prompt is longer than 1024 characters")
        images = call.integer("batch_size", 1, 4)
        call.require(images, "batch_size is required")
        sync = call.integer("sync", 0, 1)
        call.require(not callback or is_url(callback), "callback_url is not a valid URL")
        task = await self.accept(call, images=images or 1, wish={"scene": prompt})
        notice = BackgroundTask(_notify, call.request.app.state.client, task, callback) if callback else None
        if sync and task.final_state is not None:
            await asyncio.sleep(task.latency)
            return JSONResponse({"status": 200, "data": self.progress(call, task)}, background=notice)
        return JSONResponse({"status": 200, "data": {"task_id": task.id}}, background=notice)


async def _notify(client: httpx.AsyncClient, task: Task, url: str) -> None:
    """Tell the callback URL that the task has ended. The real payload is undocumented."""
    if task.final_state is None:
        return
    await asyncio.sleep(task.latency)
    try:
        await client.post(url, json={"status": 200, "task_id": task.id, "state": task.final_state})
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):
        return  # a vendor does not care either
