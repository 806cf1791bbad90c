# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Pages of reports: one HTML file each, no script, nothing loaded from anywhere; text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
import html
from typing import Any

STYLE = """
:root { --ink: #1d2733; --soft: #5b6775; --line: #e1e6ec; --accent: #0072b2; --warn: #9a5b00; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: #f4f6f9; margin: 0; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; }
h3 { font-size: 15px; margin: 18px 0 8px; } p { margin: 6px 0 12px; max-width: 80ch; }
.sub { color: var(--soft); }
section, .tiles, .warn { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 20px; }
.tiles { display: flex; flex-wrap: wrap; gap: 14px 40px; margin: 18px 0; }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-weight: 650; }
.tile span { color: var(--soft); font-size: 13px; }
.tile small { color: var(--soft); display: block; font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 12px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: 13px; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.wrap { white-space: normal; word-break: break-word; text-align: left; }
tr:last-child td { border-bottom: 0; }
.ci { color: var(--soft); font-size: 12.5px; } .few { color: var(--warn); font-weight: 600; }
.none { color: var(--soft); }
.warn { border-left: 4px solid #e69f00; padding: 10px 18px; } .warn ul { margin: 4px 0; padding-left: 20px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px;
  margin-top: 14px; }
.plots svg { width: 100%; height: auto; max-width: 520px; }
.scroll { overflow-x: auto; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); gap: 14px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; overflow: hidden; background: #fff; }
figure img { display: block; width: 100%; } figcaption { padding: 6px 10px 9px; font-size: 13px; }
figcaption span { color: var(--soft); display: block; }
.key i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 4px -1px 12px; }
code { background: #eef1f5; padding: 1px 5px; border-radius: 4px; font-size: 13px; word-break: break-all; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def esc(value: Any) -> str:
    """Return a value as escaped text."""
    return html.escape(str(value), quote=True)


def number(value: float | None, digits: int = 2, scale: float = 1.0) -> str:
    """Return a number, a dash where there is none."""
    return '<span class="none">–</span>' if value is None else f'{scale * value:.{digits}f}'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Build a table; cells are HTML already."""
    def cells(tag: str, row: Sequence[str]) -> str:
        return ''.join(f'<{tag}{" class=text" if i < text_columns else ""}>{cell}</{tag}>'
                       for i, cell in enumerate(row))
    body = ''.join(f'<tr>{cells("td", row)}</tr>' for row in rows)
    head_row = f'<thead><tr>{cells("th", head)}</tr></thead>'
    return f'<div class="scroll"><table>{head_row}<tbody>{body}</tbody></table></div>'


def section(title: str, *parts: str | None) -> str:
    """Return parts under a title; nothing where there are none."""
    inside = ''.join(part for part in parts if part)
    return f'<h2>{esc(title)}</h2><section>{inside}</section>' if inside else ''


def figures(svgs: Sequence[str | None]) -> str:
    """Return figures side by side."""
    drawn = [svg for svg in svgs if svg]
    return f'<div class="plots">{"".join(drawn)}</div>' if drawn else ''


def warning_box(lines: Sequence[str]) -> str:
    """Return warnings as a list; nothing where there are none."""
    items = ''.join(f'<li>{esc(line)}</li>' for line in lines)
    return f'<div class="warn"><ul>{items}</ul></div>' if items else ''


def document(title: str, body: str, style: str = STYLE) -> str:
    """Return the page; `body` is HTML, and begins below the title."""
    return ('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>{esc(title)}</title><style>{style}</style></head><body><main>'
            f'<h1>{esc(title)}</h1>{body}</main></body></html>\n')
