"""What the source images of a whole catalogue look like from outside, and which content that was the last time.

Folders in S3 are listed, so that few images are asked for singly; links are asked for one byte; only files on this
machine are read. What nobody has seen in this look before is unknown here: who generates reads it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from airflow_provider_bgai.exceptions import InvalidRequestError, SourceError
from airflow_provider_bgai.sources import hint_of, look_of
from airflow_provider_bgai.storage import Storage, split_uri, store_errors

log = logging.getLogger(__name__)

FEW_IN_FOLDER = 20
LOOK_TIMEOUT = 20.0


def digest(text: str) -> bytes:
    """A hint, or what else is compared whole, made short, for keeping 100,000 of them."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Images:
    """Which contents images have, as far as hints tell.

    :param seen: the sha256 (hexadecimal) of contents by the :func:`digest` of the hint they had.
    :param allow_private_hosts: for images given as links.
    """

    def __init__(
        self,
        storage: Storage,
        pool: ThreadPoolExecutor,
        seen: Mapping[bytes, bytes],
        *,
        allow_private_hosts: bool = False,
    ) -> None:
        self.storage, self.pool, self.seen = storage, pool, seen
        self.allow_private_hosts = allow_private_hosts
        self.folders: dict[str, set[str]] = defaultdict(set)
        self.known: dict[str, bytes | None] = {}
        # Of the chunk at work: images that are not known for good.
        self.asked: dict[str, bytes | None | InvalidRequestError] = {}

    def expect(self, image: str) -> None:
        """An image that will be asked for."""
        if image.startswith("s3://"):
            folder, _, name = image.rpartition("/")
            self.folders[folder].add(name)

    def survey(self) -> None:
        """List the folders that hold many of the expected images."""
        folders = [(folder, names) for folder, names in self.folders.items() if len(names) > FEW_IN_FOLDER]
        for found in self.pool.map(lambda it: self._list(*it), folders):
            self.known.update(found)
        self.folders.clear()

    def _list(self, folder: str, names: set[str]) -> dict[str, bytes | None]:
        try:
            split_uri(f"{folder}/")
        except InvalidRequestError:
            return {}
        # A folder with far more in it than is wanted is not listed to its end: the rest is asked for one by one.
        start = len(folder) + 1
        listed = islice(self.storage.list(f"{folder}/"), 2 * len(names) + 2000)
        try:
            return {it.uri: self._recall(it.uri, it.hint) for it in listed if it.uri[start:] in names}
        except store_errors() as error:
            log.warning("%s/ cannot be listed, so its images are asked for one by one: %s", folder, error)
            return {}

    def _recall(self, image: str, look: str) -> bytes | None:
        return self.seen.get(digest(hint_of(image, look)))

    def look(self, images: Iterable[Any]) -> None:
        """Find out about images before they are looked up with ``[]``."""
        missing = [image for image in dict.fromkeys(images) if image not in self.known]
        links = [image for image in missing if image.startswith(("http://", "https://"))]
        others = [image for image in missing if not image.startswith(("http://", "https://"))]
        self.asked = dict(zip(others, self.pool.map(self._ask, others), strict=True))
        if links:
            self.asked |= dict(zip(links, asyncio.run(self._look_at(links)), strict=True))

    def _ask(self, image: str) -> bytes | None | InvalidRequestError:
        try:
            if image.startswith("s3://"):
                found = self.storage.head(image)
                if found is None:
                    raise InvalidRequestError(f"image={image!r}: there is no such object in S3")
                return self._recall(image, found.hint)
            with Path(image).open("rb") as file:
                return hashlib.file_digest(file, "sha256").digest()
        except InvalidRequestError as error:
            return error
        except store_errors() as error:
            log.warning("image=%r: cannot be looked at for now: %s", image, error)
            return None
        except (OSError, ValueError) as error:
            return InvalidRequestError(f"image={image!r}: cannot be read: {getattr(error, 'strerror', None) or error}")

    async def _look_at(self, links: Iterable[str]) -> list[bytes | None]:
        """Links that cannot be asked for now, or are wrong, are unknown: who generates says what is wrong with them."""
        from airflow_provider_bgai import web

        slots = asyncio.Semaphore(16)

        async def look(link: str) -> bytes | None:
            async with slots:
                try:
                    found = await web.look(link, allow_private_hosts=self.allow_private_hosts, timeout=LOOK_TIMEOUT)
                except web.WebError:
                    return None
            hint = found and look_of(link, found)
            return self.seen.get(digest(hint)) if hint else None

        return list(await asyncio.gather(*(look(link) for link in links)))

    def __getitem__(self, image: Any) -> bytes | None:
        """The sha256 of an image's content; None where it is not known without reading it.

        :raises InvalidRequestError: if there is no such image.
        """
        found = self.known[image] if image in self.known else self.asked[image]
        if isinstance(found, InvalidRequestError):
            raise found
        return found


def read_few(images: Iterable[str], storage: Storage, *, allow_private_hosts: bool) -> dict[str, bytes | None]:
    """The sha256 of a handful of images, read: guidance images, which a recipe has few of. None: not for now."""
    from airflow_provider_bgai.sources import read_source

    async def read() -> dict[str, bytes | None]:
        found: dict[str, bytes | None] = {}
        for image in images:
            try:
                source = await read_source(image, storage, allow_private_hosts=allow_private_hosts)
                found[image] = bytes.fromhex(source.sha256)
            except (InvalidRequestError, SourceError):
                found[image] = None
        return found

    return asyncio.run(read())
