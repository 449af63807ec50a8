"""Notifiers of the tests' own: those that remember what they were told, and those that break."""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import BaseNotifier

HEARD: list[dict[str, Any]] = []
"""What each :class:`Listener` was told: its rendered text, and what it found under ``bgai``."""


class Listener(BaseNotifier):
    """As somebody would write it for a channel of his own: a template, and where it goes."""

    template_fields = ("text",)

    def __init__(self, text: str = "{{ ti.task_id }}: {{ bgai.text }}") -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Any) -> None:
        """Remember."""
        HEARD.append({**context["bgai"], "said": self.text})


class Broken(BaseNotifier):
    """Its channel is not there."""

    template_fields = ("text",)
    text = "{{ bgai.text }}"

    def notify(self, context: Any) -> None:
        """Fail as a network does."""
        raise ConnectionError("no such channel")


def break_down(context: Any) -> None:
    """A function as a callback, that is wrong."""
    raise KeyError(context["bgai"]["events"][0])
