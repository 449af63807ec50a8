"""gpt.ge (V-API): PicWish resold behind another key, path and price.

Wire facts: gpt.ge's page "Task: Add Background to Image" (fields, the synchronous answer) and its result
page (``GET /task/{task_id}``). It lists no states of its own, so they are read by PicWish's pages; but no page says
that a failed task costs nothing here, so one may have been charged. Errors come as PicWish's or as the gateway's,
where a spent quota is a 403 with code ``insufficient_user_quota``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_bgai.exceptions import QuotaError
from airflow_provider_bgai.hooks.meaning import Documented
from airflow_provider_bgai.hooks.picwish import TaskHook
from airflow_provider_bgai.models import BackgroundRequest


def _gateway_error(body: Mapping[str, Any]) -> bool:
    return isinstance(body.get("error"), Mapping) and "code" in body["error"]


class GptGeHook(TaskHook):
    """gpt.ge: 1 to 4 pictures a call, by prompt only; no seeds, no templates, no negative prompt.

    ``options``: ``sync`` (0, the default, or 1: answer with the result) and ``callback_url``. A callback
    is unsigned, so it is never trusted: the task is polled all the same.
    """

    conn_type = "bgai_gptge"
    hook_name = "gpt.ge"
    default_conn_name = "gptge_default"
    vendor = "gptge"
    base_url = "https://api.gpt.ge"
    max_count = 4
    count_rule = "gpt.ge makes 1 to 4 pictures a call (batch_size)"
    path = "/task/pic/background"
    task_path = "/task"
    failures_are_free = False
    documented = (
        Documented(
            means=QuotaError,
            page="popjane/free_chatgpt_api issue 78: an answer of the same gateway",
            envelope=_gateway_error,
            codes={"insufficient_user_quota"},
        ),
    )

    def check_own(self, request: BackgroundRequest) -> None:
        self.forbid_options(request, {"image_url", "image_file", "batch_size", "prompt"})
        if request.prompt is None:
            raise self.refuse("prompt", None, "gpt.ge needs a prompt")
        self.check_length("prompt", request.prompt)
        if str(request.options.get("sync", 0)) not in ("0", "1"):
            raise self.refuse("options['sync']", request.options["sync"], "0 (asynchronous) or 1 (synchronous)")
        callback = request.options.get("callback_url")
        if callback is not None and not str(callback).startswith(("http://", "https://")):
            raise self.refuse("options['callback_url']", callback, "must be an http(s) URL")
        self.check_bytes(request)

    def own_fields(self, request: BackgroundRequest) -> dict[str, str | None]:
        return {"batch_size": str(request.count), "prompt": request.prompt}
