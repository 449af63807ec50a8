"""What identifies the source images of a whole catalogue: folders are listed, so that few are asked for singly."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from airflow_provider_bgai.exceptions import InvalidRequestError
from airflow_provider_bgai.storage import Storage, split_uri

FEW_IN_FOLDER = 20


class Sources:
    """What identifies images' contents, as ``landing.identify`` does it, without asking for each one."""

    def __init__(self, storage: Storage, pool: ThreadPoolExecutor) -> None:
        self.storage = storage
        self.pool = pool
        self.folders: dict[str, set[str]] = defaultdict(set)
        self.known: dict[str, str] = {}
        # Of the chunk at work: images that are not known for good.
        self.asked: dict[str, str | InvalidRequestError] = {}

    def expect(self, image: str) -> None:
        """An image that will be asked for."""
        if image.startswith("s3://"):
            folder, _, name = image.rpartition("/")
            self.folders[folder].add(name)

    def list(self) -> None:
        """List the folders that hold many of the expected images."""
        folders = [(folder, names) for folder, names in self.folders.items() if len(names) > FEW_IN_FOLDER]
        for found in self.pool.map(lambda it: self._list(*it), folders):
            self.known.update(found)
        self.folders.clear()

    def _list(self, folder: str, names: set[str]) -> dict[str, str]:
        try:
            split_uri(f"{folder}/")
        except InvalidRequestError:
            return {}
        # A folder with far more in it than is wanted is not listed to its end: the rest is asked for one by one.
        start = len(folder) + 1
        listed = islice(self.storage.list(f"{folder}/"), 2 * len(names) + 2000)
        return {item.uri: f"etag:{item.etag}" for item in listed if item.uri[start:] in names}

    def identify(self, images: Iterable[Any]) -> None:
        """Find out about images before they are looked up with ``[]``."""
        missing = list(dict.fromkeys(image for image in images if image not in self.known))
        self.asked = dict(zip(missing, self.pool.map(self._ask, missing), strict=True))

    def _ask(self, image: str) -> str | InvalidRequestError:
        try:
            if image.startswith("s3://"):
                found = self.storage.head(image)
                if found is None:
                    raise InvalidRequestError(f"image={image!r}: there is no such object in S3")
                return f"etag:{found.etag}"
            if image.startswith(("http://", "https://")):
                return f"url:{image}"
            with Path(image).open("rb") as file:
                return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        except InvalidRequestError as error:
            return error
        except (OSError, ValueError) as error:
            return InvalidRequestError(f"image={image!r}: cannot be read: {getattr(error, 'strerror', None) or error}")

    def __getitem__(self, image: Any) -> str:
        found = self.known.get(image) or self.asked[image]
        if isinstance(found, InvalidRequestError):
            raise found
        return found
