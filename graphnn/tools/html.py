"""Builds a self-contained HTML page: sections, embedded pictures, highlighted code, tables."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, Verdana, sans-serif; color: #1c2833; background: #fdfefe;
  max-width: 1180px; margin: 0 auto; padding: 1.5rem 2rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #d5d8dc;
  padding-bottom: .25rem; }
p.about { color: #5d6d7e; margin: 0 0 1rem; }
nav a { margin-right: 1.1rem; color: #1f618d; text-decoration: none; }
nav a:hover { text-decoration: underline; }
figure { margin: .8rem 0; overflow-x: auto; }
figure img { max-width: none; height: auto; }
figcaption { color: #5d6d7e; font-size: .9rem; }
pre { background: #f4f6f7; border: 1px solid #e5e8e8; border-radius: 6px; padding: .8rem 1rem;
  overflow-x: auto; margin: .5rem 0;
  font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
table { border-collapse: collapse; font-size: .88rem; margin: .6rem 0; }
th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #e5e8e8;
  white-space: nowrap; }
th { color: #5d6d7e; font-weight: 600; }
th.left, td.left { text-align: left; }
td.inner { padding-left: 2rem; color: #5d6d7e; }
td.bar { min-width: 100px; }
div.wide { overflow-x: auto; }
td.bar span { display: inline-block; height: .7em; background: #c0392b; border-radius: 2px; }
details { margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; }
"""


@dataclass(frozen=True)
class Section:
    """A section of a page: an id for links, a heading, and a body of HTML."""

    id: str
    heading: str
    body: str


def page(title: str, about: str, sections: Sequence[Section]) -> str:
    """The whole page. It loads nothing from elsewhere."""
    links = "".join(f'<a href="#{s.id}">{escape(s.heading)}</a>' for s in sections)
    parts = "".join(
        f'<section id="{s.id}"><h2>{escape(s.heading)}</h2>{s.body}</section>\n' for s in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        f'<h1>{escape(title)}</h1><p class="about">{escape(about)}</p><nav>{links}</nav>\n'
        f"{parts}</body></html>\n"
    )


def image(svg: bytes, caption: str) -> str:
    """An embedded SVG picture with its caption."""
    data = base64.b64encode(svg).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def code(text: str) -> str:
    """Python code with highlighting."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    inner = highlight(text, PythonLexer(), HtmlFormatter(noclasses=True, nowrap=True))
    return f"<pre>{inner}</pre>"


def plain(text: str) -> str:
    """Preformatted text."""
    return f"<pre>{escape(text)}</pre>"


def folded(summary: str, body: str, opened: bool = False) -> str:
    """A body that opens when its summary is clicked."""
    return f"<details{' open' * opened}><summary>{escape(summary)}</summary>{body}</details>"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of HTML cells. The first `left` columns are aligned left."""
    kinds = [' class="left"' if n < left else "" for n in range(len(heads))]
    top = "".join(f"<th{k}>{escape(h)}</th>" for k, h in zip(kinds, heads))
    body = "".join(f"<tr>{''.join(_cell(k, c) for k, c in zip(kinds, row))}</tr>" for row in rows)
    made = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{made}</div>'


def _cell(kind: str, content: str) -> str:
    """Returns a cell. Content that is a whole cell already is returned unchanged."""
    return content if content.startswith("<td") else f"<td{kind}>{content}</td>"
