"""PicWish: a form goes in, a task ID comes out, polling brings signed links that live for an hour.

gpt.ge resells this engine, so the engine (``Engine``) is here and gpt.ge only adds its own rules.
Source: PicWish's "Generate Background API" page and its pages on states and credits.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import abstractmethod
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from airflow_provider_bgai.sandbox import paint
from airflow_provider_bgai.sandbox.faults import DOWNLOAD, OTHER_COUNTS, POLL, SUBMIT, Hit
from airflow_provider_bgai.sandbox.state import Recipe, Task
from airflow_provider_bgai.sandbox.vendor import (
    MULTIPART,
    URLENCODED,
    Call,
    Endpoint,
    FetchFailed,
    Upload,
    Vendor,
    check_form,
    digest,
    fetch,
    is_url,
    store_refusal,
    stored_picture,
)

MAX_BYTES = 20 * 1024 * 1024
MIN_SIDE, MAX_SIDE = 256, 4096  # pixels of the source
SLOTS = 4  # image_1 to image_4
RESULT_SIDE = 1024  # pixels of the result's longer side
MAX_PROMPT = 1024  # characters
MAX_URL = 512  # characters

# state -> state_detail. PicWish "Status Code Definitions" page.
DETAILS = {
    0: "In the queue",
    1: "Complete",
    2: "Preparing",
    3: "Waiting",
    4: "Processing",
    -1: "Failed",
    -2: "Uploading the result to OSS failed",
    -3: "Downloading the file failed",
    -5: "The image exceeds the size limit",
    -7: "Invalid image file",
    -8: "Processing timed out",
}
PENDING = (0, 2, 3, 4)  # what a task goes through before it ends


class Engine(Vendor):
    """Tasks, states and links, the same for PicWish and its reseller gpt.ge."""

    answers = "task"
    signs_links = True
    own_faults = {
        **{f"state_{state}": Hit(SUBMIT) for state in (-1, -2, -3, -5, -7, -8)},  # a task born to fail: never charged
        "pending_forever": Hit(SUBMIT),  # accepted, never finishes, never charged
        "not_found_first": Hit(POLL),  # 404 until the task was seen once
        "no_state": Hit(POLL),  # a poll answer without data.state
        "expired_url": Hit(DOWNLOAD),
        **OTHER_COUNTS,
    }
    single_image_slot = False

    @abstractmethod
    async def submit(self, call: Call) -> Response: ...

    async def accept(self, call: Call, *, images: int, wish: dict[str, Any]) -> Task:
        """Make a task of a valid request, and bill it if it is going to succeed.

        Only successful calls cost (PicWish credit page). Whether a task will succeed is decided here, so that
        a task nobody polls is billed as well, and exactly once; one that will fail is never on the bill, so
        that no charge is ever taken back. The bill is for the pictures that are made, the wish for those asked.
        """
        made = min(SLOTS, call.made(images))
        state, source, detail = await self._source(call)
        if call.fault and call.fault.name.startswith("state_"):
            state, detail = int(call.fault.name.removeprefix("state_")), ""
        task = Task(
            id=str(uuid.uuid4()),
            vendor=self.name,
            key=call.key,
            recipe=self._recipe(call, source, wish["scene"]) if state == 1 else None,
            images=made,
            latency=call.state.latency(self.name),
            final_state=None if call.suffers("pending_forever") else state,
            detail=detail or DETAILS[state],
        )
        if task.final_state == 1:
            call.charge(made, {"image": digest(source), "images": images, **wish}, task.id)
        return call.state.add(task)

    def _recipe(self, call: Call, source: bytes, scene: str) -> Recipe:
        return Recipe(call.state.uploads.keep(source), scene, self.taste(call), RESULT_SIDE)

    async def _source(self, call: Call) -> tuple[int, bytes, str]:
        """The state the task will end in because of its picture, the picture, and why."""
        upload = call.files.get("image_file")
        if upload is not None:
            content = upload.content
        else:
            try:
                content = await fetch(call, call.fields["image_url"])
            except FetchFailed as error:
                return -3, b"", f"{DETAILS[-3]}: {error}"
        if len(content) > MAX_BYTES:
            return -5, b"", DETAILS[-5]
        return await asyncio.to_thread(_judge, content)

    async def poll(self, call: Call) -> Response:
        self.check_key(call)
        task = call.state.task(call.request.path_params["task_id"])
        if task is None or task.forgotten or task.vendor != self.name or task.key != call.key:
            raise call.refuse("not_found", "task_id does not exist")
        if call.suffers("not_found_first") and not task.seen:
            raise call.refuse("not_found", "task_id does not exist")
        task.seen = True
        data = self.progress(call, task)
        if call.suffers("no_state"):
            del data["state"]
        return JSONResponse({"status": 200, "data": data})

    def progress(self, call: Call, task: Task) -> dict[str, Any]:
        """The ``data`` of a task as it stands now. Times are Unix seconds, ``time_elapsed`` milliseconds."""
        done = task.final_state is not None and time.time() >= task.ready_at
        state, progress = (task.final_state, 100) if done else _on_the_way(task)
        data = {
            "task_id": task.id,
            "state": state,
            "state_detail": task.detail if done else DETAILS[state or 0],
            "progress": progress,
            "return_type": 1,
            "created_at": int(task.created),
            "processed_at": int(task.created),
            "completed_at": int(task.ready_at) if done else 0,
            "time_elapsed": round(task.latency * 1000, 2) if done else 0,
        }
        return data | self._slots(call, task, ready=state == 1)

    def _slots(self, call: Call, task: Task, *, ready: bool) -> dict[str, str]:
        """image_1 to image_4, unused ones empty (as on PicWish's sibling API)."""
        links = [self._link(call, task, number) for number in range(1, task.images + 1)] if ready else []
        if self.single_image_slot and task.images == 1:
            return {"image": links[0] if links else ""}
        return {f"image_{n}": links[n - 1] if n <= len(links) else "" for n in range(1, SLOTS + 1)}

    def _link(self, call: Call, task: Task, number: int) -> str:
        path = f"/results/{self.name}/tasks/output/background/{task.id}-{number}.png"
        return call.link(path, call.state.sign(task, path))

    async def download(self, call: Call) -> Response:
        path = call.request.url.path
        task_id, _, number = path.rpartition("/")[2].removesuffix(".png").rpartition("-")
        task = call.state.task(task_id)
        if task is None or call.suffers("expired_url") or not call.state.link_is_valid(path, call.query):
            return store_refusal("expired")
        return await stored_picture(call, task, int(number) - 1)

    def check_source(self, call: Call) -> None:
        """Exactly one of image_url and image_file; the other empty or absent."""
        url, upload = call.fields.get("image_url", ""), call.files.get("image_file")
        call.require(bool(url) != (upload is not None), "give exactly one of image_url and image_file")
        if upload is not None:
            _check_upload(call, upload)
        else:
            call.require(is_url(url) and len(url) <= MAX_URL, "image_url is not a valid URL of up to 512 characters")


class PicWish(Engine):
    name = "picwish"
    key = "picwish-test-key"
    price_per_image = 0.03

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint("POST", "/api/tasks/visual/background", "submit", self.submit),
            Endpoint("GET", "/api/tasks/visual/background/{task_id}", "poll", self.poll),
            Endpoint("GET", "/api/customers/package-credits", "account", self.account),
            Endpoint("GET", "/results/picwish/{path:path}", "download", self.download),
        ]

    def example(self, picture: bytes, link: str) -> dict[str, Any]:
        return {
            "method": "POST",
            "url": "/api/tasks/visual/background",
            "headers": {"X-API-KEY": self.key},
            "data": {"prompt": "a beach", "batch_size": "1"},
            "files": {"image_file": ("product.png", picture)},
        }

    def read_key(self, request: Request) -> str:
        return request.headers.get("x-api-key", "")

    def refusal(self, problem: str, message: str = "") -> Response:
        """``{"status": 400, "message": "..."}``. PicWish "Status Code Definitions" page; 402 is made up."""
        status, text = {
            "invalid": (400, "Invalid parameter"),
            "no_key": (401, "Invalid API key"),
            "bad_key": (401, "Invalid API key"),
            "quota_spent": (402, "Your credits have run out"),
            "moderation": (400, "The prompt contains sensitive content"),
            "not_found": (404, "Not found"),
            "too_large": (413, "File too large"),
            "rate_limited": (429, "Too many requests"),
            "server_error": (500, "Server exception"),
            "unavailable": (503, "Service unavailable"),
        }[problem]
        return JSONResponse({"status": status, "message": message or text}, status_code=status)

    async def submit(self, call: Call) -> Response:
        self.check_key(call)
        check_form(
            call,
            fields={"image_url", "batch_size", "prompt", "scene_type", "negative_prompt"},
            files={"image_file"},
            encodings=(MULTIPART, URLENCODED),
        )
        self.check_source(call)
        prompt, scene = call.fields.get("prompt", ""), call.fields.get("scene_type", "")
        call.require(bool(prompt) != bool(scene), "give exactly one of prompt and scene_type")
        call.require(len(prompt) <= MAX_PROMPT, "prompt is longer than 1024 characters")
        if scene:
            call.integer("scene_type", 0)
        images = call.integer("batch_size", 1, 2) or 2  # absent means two pictures, and two are billed
        wish = {
            "scene": prompt or f"scene {scene}",
            "negative_prompt": call.fields.get("negative_prompt", ""),
        }
        task = await self.accept(call, images=images, wish=wish)
        return JSONResponse({"status": 200, "message": "success", "data": {"task_id": task.id}})

    async def account(self, call: Call) -> Response:
        self.check_key(call)
        used = call.state.images_charged(self.name)
        credits = {"remaining_credits": call.state.credits(self.name), "used_credits": used}
        return JSONResponse({"status": 200, "message": "success", "data": [credits]})


def _check_upload(call: Call, upload: Upload) -> None:
    call.require(upload.content, "image_file is empty")
    if len(upload.content) > MAX_BYTES:
        raise call.refuse("too_large")


def _judge(content: bytes) -> tuple[int, bytes, str]:
    """-7 for what is no transparent PNG, -5 for one outside 256 to 4096 px, else 1."""
    try:
        facts = paint.look(content)
    except paint.NotAPicture:
        return -7, b"", DETAILS[-7]
    if facts.format != "PNG":
        return -7, b"", f"{DETAILS[-7]}: {facts.format} is not PNG"
    if min(facts.size) < MIN_SIDE or max(facts.size) > MAX_SIDE:
        return -5, b"", f"{DETAILS[-5]}: {facts.size[0]}x{facts.size[1]} is not from 256x256 to 4096x4096"
    if not facts.transparent:
        return -7, b"", f"{DETAILS[-7]}: the PNG has no transparent pixel"
    return 1, content, DETAILS[1]


def _on_the_way(task: Task) -> tuple[int, int]:
    """State and progress (percent) of a task that has not ended."""
    share = min((time.time() - task.created) / task.latency, 0.99) if task.latency > 0 else 0.99
    return PENDING[int(share * len(PENDING))], int(share * 100)
