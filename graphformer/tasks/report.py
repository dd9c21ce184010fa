"""A report in one HTML file that needs no other: text, tables and pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from graphformer.files import write_text

_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 3rem; border-top: 1px solid #8884; padding-top: 1.5rem; }
.lead { font-size: 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8883; }
td { font-variant-numeric: tabular-nums; }
code, pre { font: .85rem ui-monospace, monospace; }
pre { overflow-x: auto; padding: .8rem; background: #8881; border-radius: .4rem; }
figure { margin: 1.5rem 0; }
figcaption { font-size: .9rem; opacity: .75; }
img { max-width: 100%; background: white; border-radius: .4rem; }
"""


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        header: of the columns.
        rows: a cell a column each.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: of the part.
        result: what was found, in a sentence.
        text: paragraphs that explain it.
        tables: that show it.
        pictures: files (.svg, .png) and what each shows; those that do not exist are left out.
        command: what one types to do it again.
    """

    title: str
    result: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[Path, str]] = ()
    command: str | None = None


def write_report(file: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """`file` is one HTML page of these sections, whose pictures are in it.

    Args:
        file: to write.
        title: of the page.
        lead: a paragraph below the title.
        sections: in their order.
    """
    body = "\n".join(map(section_as_html, sections))
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n{body}\n</html>\n'
    )
    write_text(file, page)


def section_as_html(section: Section) -> str:
    """The section as HTML."""
    parts = [f"<h2>{escape(section.title)}</h2>", f'<p class="lead">{escape(section.result)}</p>']
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in section.text]
    parts += map(table_as_html, section.tables)
    parts += [picture_as_html(*picture) for picture in section.pictures if picture[0].exists()]
    if section.command is not None:
        parts.append(f"<pre>{escape(section.command)}</pre>")
    return "\n".join(parts)


def table_as_html(table: Table) -> str:
    """The table as HTML."""
    header = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    ]
    return f'<div class="scroll"><table><tr>{header}</tr>{"".join(rows)}</table></div>'


def picture_as_html(file: Path, caption: str) -> str:
    """The picture itself, in the page.

    Raises:
        ValueError: it is neither SVG nor PNG.
    """
    if file.suffix not in _TYPES:
        raise ValueError(f"{file} is no picture that a page shows: use {' or '.join(_TYPES)}")
    data = base64.b64encode(file.read_bytes()).decode()
    source = f"data:{_TYPES[file.suffix]};base64,{data}"
    name = escape(caption)
    return f'<figure><img src="{source}" alt="{name}"><figcaption>{name}</figcaption></figure>'
