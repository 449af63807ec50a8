"""The site that `make docs` builds in .site/: the Markdown files as they stand, in the order in which one needs them.

Sphinx resolves every link between pages, to a heading, an image or a file of the repository, and warns of each that
leads nowhere; `make docs` takes warnings for errors. Addresses on the web are not asked.
"""

from pathlib import Path
from typing import Any

NAVIGATION = {
    "Begin": ("docs/quickstart", "docs/connections", "docs/sandbox"),
    "Vendors": tuple(f"docs/vendors/{name}" for name in ("picwish", "photoroom", "imagine", "katalis", "gptge")),
    "Every night": (
        "docs/nightly",
        "docs/pictures",
        "docs/renditions",
        "docs/labels",
        "docs/evidence",
        "docs/feeds",
        "docs/review",
        "docs/money",
    ),
    "In production": ("docs/operating", "docs/metrics", "docs/troubleshooting", "docs/security"),
    "Behind it": ("docs/architecture", "docs/new-vendor", "CONTRIBUTING", "CHANGELOG"),
}

project = html_title = "airflow-provider-bgai"
extensions = ["myst_parser"]
include_patterns = ["*.md", "docs/**.md"]
root_doc = "README"
myst_heading_anchors = 4
html_theme = "furo"  # which loads nothing from elsewhere
html_show_sourcelink = html_copy_source = html_show_copyright = False


def navigation(app: Any, page: str, source: list[str]) -> None:
    """Say the order of the pages at the end of the first one, where the site's reader does not see it."""
    if page == root_doc:
        for caption, pages in NAVIGATION.items():
            options = f":hidden:\n:caption: {caption}"
            source[0] += "\n\n```{toctree}\n" + "\n".join([options, "", *pages]) + "\n```\n"


def first_page(app: Any, error: Exception | None) -> None:
    """Lead a browser that asks for the folder to the first page."""
    Path(app.outdir, "index.html").write_text(f'<meta http-equiv="refresh" content="0; url={root_doc}.html">')


def setup(app: Any) -> None:
    app.connect("source-read", navigation)
    app.connect("build-finished", first_page)
