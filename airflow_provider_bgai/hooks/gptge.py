"""gpt.ge (V-API): PicWish resold behind another key, path and price.

Wire facts: gpt.ge's page "Task: Add Background to Image" (fields, the synchronous answer) and its result
page (``GET /task/{task_id}``). States and pictures are PicWish's, read by the same functions; errors come
as PicWish's or as the gateway's, where a spent quota is a 403 with code ``insufficient_user_quota``.
"""

from __future__ import annotations

from airflow_provider_bgai.exceptions import BgaiError, QuotaError
from airflow_provider_bgai.hooks.base import BackgroundHook
from airflow_provider_bgai.hooks.picwish import MAX_PROMPT, SOURCE, check_bytes, check_length, read_task, submit_task
from airflow_provider_bgai.models import BackgroundRequest, Generation


class GptGeHook(BackgroundHook):
    """gpt.ge: 1 to 4 pictures a call, by prompt only; no seeds, no templates, no negative prompt.

    ``options``: ``sync`` (0, the default, or 1: answer with the result) and ``callback_url``. A callback
    is unsigned, so it is never trusted: the task is polled all the same.
    """

    conn_type = "bgai_gptge"
    hook_name = "gpt.ge"
    default_conn_name = "gptge_default"
    vendor = "gptge"
    base_url = "https://api.gpt.ge"
    default_requests_per_minute = 120
    has_tasks = True
    source = SOURCE

    def check(self, request: BackgroundRequest) -> None:
        self._forbid(request, "seed", "template", "negative_prompt", "guidance_image", "guidance_scale")
        self._check_options(request, {"image_url", "image_file", "batch_size", "prompt"})
        if request.prompt is None:
            raise self._refuse("prompt", None, "gpt.ge needs a prompt")
        check_length(self, "prompt", request.prompt, MAX_PROMPT)
        if request.count > 4:
            raise self._refuse("count", request.count, "gpt.ge makes 1 to 4 pictures a call (batch_size)")
        if str(request.options.get("sync", 0)) not in ("0", "1"):
            raise self._refuse("options['sync']", request.options["sync"], "0 (asynchronous) or 1 (synchronous)")
        callback = request.options.get("callback_url")
        if callback is not None and not str(callback).startswith(("http://", "https://")):
            raise self._refuse("options['callback_url']", callback, "must be an http(s) URL")
        check_bytes(self, request)

    async def _submit(self, request: BackgroundRequest) -> Generation:
        assert request.prompt is not None
        fields = {"batch_size": str(request.count), "prompt": request.prompt}
        fields |= {name: str(value) for name, value in request.options.items() if value not in (None, "")}
        return await submit_task(self, "/task/pic/background", request, fields)

    async def _poll(self, task_id: str) -> Generation:
        answer = await self._call("GET", f"/task/{task_id}", paid=False)
        return read_task(self, answer, task_id=task_id)

    def _classify(self, status: int, code: str | None, message: str, *, paid: bool) -> type[BgaiError]:
        if code == "insufficient_user_quota" or (status == 403 and "quota" in message.lower()):
            return QuotaError
        return super()._classify(status, code, message, paid=paid)
