"""Results: from a vendor's links to the bytes of whole pictures. What each failure means for the money is said here."""

from __future__ import annotations

import asyncio
import io
from typing import IO, TYPE_CHECKING

from airflow_provider_bgai import web
from airflow_provider_bgai.exceptions import BgaiError, LinkRefusedError, LostError, PollError
from airflow_provider_bgai.hooks.channel import MAX_BYTES, retrying

if TYPE_CHECKING:
    from airflow_provider_bgai.hooks.base import BackgroundHook
    from airflow_provider_bgai.hooks.channel import Channel

FETCH_ATTEMPTS = 4
# A picture that arrives whole and is damaged is fetched once more: the damage may be the line's.
WHOLE_ATTEMPTS = 2

_MEANING: dict[type[web.WebError], type[BgaiError]] = {web.GoneError: LostError, web.ForbiddenError: LinkRefusedError}


async def fetch(channel: Channel, image: str | bytes, file: IO[bytes]) -> None:
    """Write one picture to a file, from its beginning; see :meth:`BackgroundHook.fetch`.

    Only its own server's "gone" makes a picture lost: a private address, a proxy's refusal, a picture that is too
    large for us are our troubles.
    """
    if isinstance(image, bytes):
        await asyncio.to_thread(_rewrite, file, image)
        return
    settings = channel.settings
    try:
        async for attempt in retrying(FETCH_ATTEMPTS, web.may_pass, settings.timeout):
            with attempt:
                async with channel.slots:
                    await web.fetch(
                        image,
                        file,
                        allow_private_hosts=settings.allow_private_hosts,
                        timeout=settings.timeout,
                        max_bytes=MAX_BYTES,
                        lines=channel.lines,
                    )
    except web.WebError as error:
        cls = _MEANING.get(type(error), PollError)
        raise settings.error(cls, f"the picture could not be fetched: {error}") from None


async def whole(hook: BackgroundHook, image: str | bytes, task_id: str | None) -> bytes:
    """The bytes of one picture, decoded to its end. Errors carry the task ID.

    :raises LostError: if it is gone, or stays damaged.
    :raises PollError: if it cannot be fetched for now, or is of a kind that is not read here.
    """
    from airflow_provider_bgai.imaging.opening import NotAPictureError, UnreadKindError
    from airflow_provider_bgai.imaging.verify import verify_whole

    problem = ""
    for _ in range(WHOLE_ATTEMPTS):
        file = io.BytesIO()
        try:
            await hook.fetch(image, file)
            await asyncio.to_thread(verify_whole, file.getvalue())
            return file.getvalue()
        except UnreadKindError as error:
            raise hook.error(PollError, f"paid, and the picture is {error}", task_id=task_id) from None
        except NotAPictureError as error:
            problem = str(error)
        except BgaiError as error:
            error.task_id = error.task_id or task_id
            raise
    raise hook.error(LostError, f"paid, but the picture is damaged or none: {problem}", task_id=task_id)


def _rewrite(file: IO[bytes], data: bytes) -> None:
    file.seek(0)
    file.truncate()
    file.write(data)
