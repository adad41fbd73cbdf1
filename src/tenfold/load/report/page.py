"""The page itself: style, theme, and the way from a figure to the screen.

Figures are plain dictionaries in the JSON schema of plotly.js, which is inlined from the plotly wheel; a
colour is written ``var(--name)`` and resolved in the browser, so that one file serves light and dark. A
content security policy forbids every request, so that a report opened from a mail cannot call home even if a
name in it tried.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from tenfold import __version__
from tenfold._core.errors import MisuseError

Figure = dict[str, Any]
"""``{"data": [...], "layout": {...}}`` of plotly.js."""


@dataclass(frozen=True, slots=True)
class Badge:
    """A word in a coloured pill beside the title."""

    text: str
    kind: Literal["good", "bad", "warn", "plain"] = "plain"


@dataclass(frozen=True, slots=True)
class Section:
    """A card of the page: a heading and ``html`` (already escaped), a figure, or both. ``wide`` takes the
    whole row."""

    title: str
    html: str = ""
    figure: Figure | None = None
    note: str = ""
    wide: bool = False
    height: int = 340


def page(title: str, sections: Sequence[Section], *, badge: Badge | None = None, subtitle: str = "") -> str:
    """The whole document. ``title``, ``subtitle``, notes and headings are escaped here, ``Section.html`` is
    not.

    Raises `MisuseError` where figures are to be drawn and plotly is not installed.
    """
    drawn = [section.figure for section in sections if section.figure is not None]
    parts, number = [], 0
    for section in sections:
        inner = f"<h2>{escape(section.title)}</h2>" if section.title else ""
        if section.note:
            inner += f'<p class="note">{escape(section.note)}</p>'
        inner += section.html
        if section.figure is not None:
            inner += f'<div class="plot" id="plot-{number}" style="height:{section.height}px"></div>'
            number += 1
        kind = "card wide" if section.wide else "card"
        parts.append(f'<section class="{kind if section.title else "wide"}">{inner}</section>')
    pill = f'<span class="badge {badge.kind}">{escape(badge.text)}</span>' if badge else ""
    scripts = ""
    if drawn:
        data = script_json(drawn)
        scripts = f"<script>{_plotly()}</script><script>const figures = {data};{_SCRIPT}</script>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}{pill}</h1><p>{escape(subtitle)}</p></header>"
        f'<div class="grid">{"".join(parts)}</div>'
        f"<footer>tenfold {escape(__version__)}</footer></main>{scripts}</body></html>\n"
    )


def script_json(value: object) -> str:
    """JSON that stands safely inside a ``<script>`` element. Raises `ValueError` for NaN and infinity."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _plotly() -> str:
    found = find_spec("plotly")
    if found is None or found.origin is None:
        raise MisuseError('report: expected plotly to be installed; install "tenfold[load]"')
    path = Path(found.origin).parent / "package_data" / "plotly.min.js"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise MisuseError(f"report: cannot read plotly.min.js of the plotly package: {exc.strerror}") from exc
    # The HTML parser ends the element at this text wherever it stands, also inside a string.
    return text.replace("</script", "<\\/script")


_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)

_STYLE: Final = """
:root{--bg:#f4f5f8;--card:#fff;--ink:#1c2330;--muted:#5d6778;--line:#dfe3ea;--grid:#e8ebf0;--shade:rgba(110,120,140,.12);
--blue:#2563d9;--orange:#c7640a;--red:#c8283f;--green:#15804c;--violet:#7a3fc7;--teal:#0b7f8c;--grey:#8a93a3;
--good:#15804c;--bad:#c8283f;--warn:#a86400}
@media (prefers-color-scheme:dark){:root{--bg:#12151b;--card:#1a1f28;--ink:#e6e9ef;--muted:#9aa4b5;
--line:#2c3442;--grid:#2a313d;--shade:rgba(150,165,190,.12);--blue:#6ea8ff;--orange:#ffa657;--red:#ff7b86;--green:#56d38f;
--violet:#c39bff;--teal:#5fd0dc;--grey:#7c8798;--good:#56d38f;--bad:#ff7b86;--warn:#ffc061}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1240px;margin:0 auto;padding:28px 20px 40px}
h1{font-size:26px;line-height:1.25;margin:0;display:flex;gap:14px;align-items:center;flex-wrap:wrap;
overflow-wrap:anywhere}
h2{font-size:16px;margin:0 0 4px}
header p{margin:6px 0 20px;color:var(--muted);overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:1fr 1fr;gap:16px}
.grid>*{min-width:0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;min-width:0}
.wide{grid-column:1/-1}
.note{margin:0 0 8px;color:var(--muted);font-size:13px}
.badge{font-size:14px;font-weight:650;padding:3px 12px;border-radius:999px;border:1.5px solid currentColor}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}.plain{color:var(--muted)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 16px}
.tile b{display:block;font-size:21px;font-variant-numeric:tabular-nums;white-space:nowrap}
.tile span{color:var(--muted);font-size:13px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:6px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{color:var(--muted);font-weight:600;font-size:13px}
th.text,td.text{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:9em}
tr:last-child td{border-bottom:0}
tr.total td{font-weight:650;border-top:2px solid var(--line)}
h3{font-size:14px;margin:14px 0 4px}
ul{margin:6px 0 0;padding-left:20px}
pre{overflow-x:auto;font-size:12px;background:var(--bg);padding:10px;border-radius:6px}
footer{color:var(--muted);font-size:13px;margin-top:20px}
@media (max-width:860px){.grid{grid-template-columns:1fr}}
@media print{body{background:#fff}.card{break-inside:avoid}}
"""

# Colours are resolved at drawing time, and again when the reader's theme changes.
_SCRIPT: Final = """
const root = getComputedStyle(document.documentElement);
function resolve(value) {
  if (typeof value === "string")
    return value.startsWith("var(") ? root.getPropertyValue(value.slice(4, -1)).trim() : value;
  if (Array.isArray(value)) return value.map(resolve);
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolve(inner)]));
  return value;
}
function draw() {
  figures.forEach((figure, index) => {
    const made = resolve(figure);
    Plotly.react("plot-" + index, made.data, made.layout, {displayModeBar: false, responsive: true});
  });
  document.documentElement.dataset.drawn = String(figures.length);
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
"""
