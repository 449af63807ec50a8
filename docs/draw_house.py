"""Draws the rooms of the package and what each of them imports: ``python docs/draw_house.py`` writes ``house.svg``, and
the list of files in ``architecture.md``.

Nothing in them is written by hand: rooms are the folders and files at the top of the package, their sentences
are the first of their docstrings, and a room lies below all that import it. A test compares both with the package.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections import defaultdict
from collections.abc import Mapping
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "airflow_provider_bgai"
PICTURE = Path(__file__).with_name("house.svg")
PAGE = Path(__file__).with_name("architecture.md")
BEGIN, END = "<!-- drawn by docs/draw_house.py -->", "<!-- end of what is drawn -->"
LEFT_OUT = {"__init__", "exceptions", "sandbox", "get_provider_info"}
"""Everybody imports the exceptions and may ask for the list of vendors, and nobody the sandbox."""

WIDE, HIGH, GAP_X, GAP_Y, MARGIN = 210, 92, 26, 44, 20
LETTERS = 31


def imports() -> dict[str, set[str]]:
    """What each room imports of the others."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
                inner = str(node.module).split(".")[1:2] or [alias.name for alias in node.names]
                found[room] |= {name for name in inner if name != room and _source(name)}
    return {room: others - LEFT_OUT for room, others in found.items() if room not in LEFT_OUT}


def _source(room: str) -> Path | None:
    """Where a room says what it is; None if there is no such room."""
    places = PACKAGE / room / "__init__.py", PACKAGE / f"{room}.py"
    return next((path for path in places if path.exists()), None)


def floors(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The rooms from the roof down. :raises graphlib.CycleError: if two import each other."""
    level: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        level[room] = 1 + max((level[other] for other in graph.get(room, ())), default=-1)
    return [sorted(room for room in level if level[room] == each) for each in sorted(set(level.values()), reverse=True)]


def direct(graph: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that follow from no others."""

    def below(room: str) -> set[str]:
        return {it for other in graph.get(room, ()) for it in (other, *below(other))}

    return sorted(
        (room, other)
        for room, others in graph.items()
        for other in others
        if not any(other in below(between) for between in others)
    )


def sentence(room: str) -> str:
    """The first sentence of a room's docstring."""
    path = _source(room)
    assert path is not None
    return first_sentence(path).replace("`", "")


def first_sentence(path: Path) -> str:
    """What a file says of itself first."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    return text.partition(". ")[0].rstrip(".")


def files() -> str:
    """Every file and its first sentence, by folder."""
    tables = []
    for folder in sorted({path.parent for path in PACKAGE.rglob("*.py")}):
        rows = [(path.name, first_sentence(path)) for path in sorted(folder.glob("*.py"))]
        said = [f"| `{name}` | {_as_markdown(text)} |" for name, text in rows if not name.startswith("__")]
        if said:
            name = folder.relative_to(PACKAGE.parent)
            tables.append("\n".join([f"| `{name}/` | {dict(rows).get('__init__.py', '')} |", "|---|---|", *said]))
    return "\n\n".join(tables)


def _as_markdown(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", text)
    return re.sub("`+", "`", text).replace("*", r"\*")


def listed() -> str:
    """The page with its list drawn anew."""
    return re.sub(f"(?<={BEGIN}\n).*?(?={END})", lambda _: f"\n{files()}\n\n", PAGE.read_text(), flags=re.DOTALL)


def draw() -> str:
    """The picture."""
    graph = imports()
    rows = floors(graph)
    across = max(map(len, rows)) * (WIDE + GAP_X) - GAP_X + 2 * MARGIN
    down = len(rows) * (HIGH + GAP_Y) - GAP_Y + 2 * MARGIN
    places = {}
    for row, rooms in enumerate(rows):
        left = (across - len(rooms) * (WIDE + GAP_X) + GAP_X) / 2
        for column, room in enumerate(rooms):
            places[room] = left + column * (WIDE + GAP_X), MARGIN + row * (HIGH + GAP_Y)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {down}" font-family="sans-serif" role="img">',
        "<title>The rooms of the package: each imports only what lies below it</title>",
        f'<rect width="{across}" height="{down}" fill="#ffffff"/>',
    ]
    for room, other in direct(graph):
        (x1, y1), (x2, y2) = places[room], places[other]
        begins, ends = (x1 + WIDE / 2, y1 + HIGH), (x2 + WIDE / 2, y2)
        bend = (ends[1] - begins[1]) / 2
        curve = f"M{begins[0]:g} {begins[1]:g}C{begins[0]:g} {begins[1] + bend:g} {ends[0]:g} {ends[1] - bend:g}"
        lines.append(f'<path d="{curve} {ends[0]:g} {ends[1]:g}" fill="none" stroke="#9a8fc0" stroke-width="1.5"/>')
    for room, (x, y) in sorted(places.items()):
        lines.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDE}" height="{HIGH}" rx="8" fill="#f3f0fa" stroke="#6b5ca5"/>'
        )
        name = f'<text x="{x + 12:g}" y="{y + 22:g}" font-size="15" font-weight="bold" fill="#2d2350">{room}</text>'
        lines.append(name)
        for place, line in enumerate(textwrap.wrap(sentence(room), LETTERS)[:4]):
            lines.append(
                f'<text x="{x + 12:g}" y="{y + 40 + 14 * place:g}" font-size="11" fill="#444">{escape(line)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw())
    PAGE.write_text(listed())
