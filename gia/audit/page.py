"""The page of an audit: one HTML file with everything in it, light and dark, for small screens and for paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from gia.audit.report import MARK, AuditReport, Leak, advice, cells, not_run, said, summary

__all__ = ["to_html"]

#: Pixels of the longer side of a tile; small images are enlarged by a whole factor.
_SIDE = 96

_HEADS = ("attack type", "leak (dB)", "interval", "worst image", "exact", "PSNR (dB)", "SSIM", "steps", "server")

_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{{ mark }}">
<title>Audit: what this set-up leaks</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --line: #d0d7de; --shade: #f6f8fa;
  --bar: #b35900; --warn: #fff3d6; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1; --paper: #0d1117; --line: #3d444d;
  --shade: #161b22; --bar: #e5903a; --warn: #3a2d12; --link: #79b8ff; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1rem;
  max-width: 60rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
.private { background: var(--warn); border: 1px solid var(--line); border-radius: 6px; padding: .5rem .75rem; }
.soft { color: var(--soft); font-weight: normal; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody th { font-weight: 600; min-width: 9rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
.bar { display: inline-block; height: .6rem; background: var(--bar); border-radius: 2px; vertical-align: middle; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0; margin: 0; list-style: none; }
figure { margin: 0; padding: .4rem; background: var(--shade); border: 1px solid var(--line); border-radius: 6px;
  break-inside: avoid; }
figure img { image-rendering: pixelated; display: inline-block; } figcaption { font-size: .85rem; }
li { margin: .2rem 0; }
@media screen and (max-width: 45rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  th, td { display: block; border: 0; padding: .1rem 0; } td.number { text-align: left; }
  td[data-head]::before { content: attr(data-head) ": "; color: var(--soft); } .bar { display: none; } }
@media print { :root { --ink: #000; --soft: #333; --paper: #fff; --line: #999; --shade: #fff; --bar: #555;
  --warn: #fff; }
  body { max-width: none; padding: 0; font-size: 11pt; } h2, h3 { break-after: avoid; }
  .bar { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
</style>
</head>
<body>
<header>
<h1>What this set-up leaks</h1>
<p class="private"><strong>This page contains private images</strong>: originals and what attacks made of them. Share it
as you would share the data.</p>
{% for sentence in summary %}<p>{{ sentence }}</p>
{% endfor %}</header>
<main>
<section aria-labelledby="leaks">
<h2 id="leaks">Leaks</h2>
{% if rows %}<p class="soft">Leak is PSNR above that of the best placebo, which an attacker has without the gradient,
as a mean over images; the interval is one of 95 %. PSNR punishes wrong brightness and contrast: look at the
pictures, too.</p>
<table role="table" aria-labelledby="leaks">
<thead role="rowgroup"><tr role="row">{% for head in heads %}<th role="columnheader" scope="col"\
{% if not loop.first and not loop.last %} class="number"{% endif %}>{{ head }}</th>{% endfor %}</tr></thead>
<tbody role="rowgroup">
{% for row in rows %}<tr role="row"><th role="rowheader" scope="row">{{ row.name }}<br>
<span class="soft">{{ row.title }}</span></th>
{% for cell in row.cells %}<td role="cell" class="number" data-head="{{ heads[loop.index] }}">\
{% if loop.first and row.width %}<span class="bar" style="width: {{ row.width }}px"></span>{% endif %}
{{ cell }}</td>
{% endfor %}<td role="cell" data-head="server">{{ "malicious" if row.malicious else "honest" }}</td></tr>
{% endfor %}</tbody>
</table>
{% for row in rows if row.silent %}<p><strong>{{ row.name }} says nothing</strong>, since the attack did not work:
{{ row.silent }}</p>
{% endfor %}{% else %}<p>No attack type could be run.</p>
{% endif %}</section>
<section aria-labelledby="images">
<h2 id="images">Originals and reconstructions</h2>
{% for row in rows if row.tiles %}<h3>{{ row.name }}: {{ row.title }}</h3>
<ul class="tiles">
{% for tile in row.tiles %}<li><figure>
{% for picture in tile.pictures %}<img src="{{ picture.source }}" alt="{{ picture.alt }}" width="{{ picture.width }}"\
 height="{{ picture.height }}">
{% endfor %}<figcaption>{{ tile.caption }}</figcaption></figure></li>
{% endfor %}</ul>
{% endfor %}</section>
{% if advice %}<section aria-labelledby="changes">
<h2 id="changes">What if</h2>
<p>{{ advice }}</p>
{% if changes %}<p class="soft">Leak in dB before and after one change of the set-up. What a change costs in accuracy
is not measured.</p>
<table role="table" aria-labelledby="changes">
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">change</th>
<th role="columnheader" scope="col">leaks</th></tr></thead>
<tbody role="rowgroup">
{% for change in changes %}<tr role="row"><th role="rowheader" scope="row">{{ change.words }}</th><td role="cell">
{% for line in change.lines %}{{ line }}<br>{% endfor %}</td></tr>
{% endfor %}</tbody>
</table>
{% for reason, words in not_run %}<p>Not run, {{ reason }}: {{ words | join("; ") }}.</p>
{% endfor %}{% endif %}</section>
{% endif %}{% if servers %}<section aria-labelledby="validation">
<h2 id="validation">If the server were malicious</h2>
<p>What a client says that knows the model and checks what it receives (<code>gia.validate_model</code>):</p>
<dl>
{% for server, words in servers %}<dt>{{ server }}</dt><dd>{{ words }}</dd>
{% endfor %}</dl>
</section>
{% endif %}{% if not_tried %}<section aria-labelledby="untried">
<h2 id="untried">Not tried</h2>
<dl>
{% for name, why in not_tried %}<dt>{{ name }}</dt><dd>{{ why }}</dd>
{% endfor %}</dl>
</section>
{% endif %}<section aria-labelledby="limits">
<h2 id="limits">What this audit cannot say</h2>
<ul>
{% for limit in limits %}<li>{{ limit }}</li>
{% endfor %}</ul>
</section>
<section aria-labelledby="setup">
<h2 id="setup">The set-up</h2>
<dl>
{% for name, value in setup %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}</dl>
</section>
</main>
<footer class="soft"><p>Made by gia in {{ seconds }} s, {{ cpu_seconds }} CPU seconds.</p></footer>
</body>
</html>
"""


def to_html(report: AuditReport) -> str:
    """A report as one HTML page that loads nothing from elsewhere. It holds the private images.

    >>> from gia.audit import AuditReport, to_html
    >>> "No attack type could be run" in to_html(AuditReport(setup={}, results={}))
    True
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    most = max((each.leak or 0.0 for each in report.results.values()), default=0.0)
    return environment.from_string(_TEMPLATE).render(
        mark=MARK,
        seconds=f"{report.seconds:.0f}",
        summary=summary(report),
        heads=_HEADS,
        rows=[_row(each, most) for each in report.results.values()],
        cpu_seconds=f"{report.cpu_seconds:.0f}",
        advice=advice(report) if report.what_if else "",
        not_run=not_run(report),
        changes=[
            {
                "words": each.change,
                "lines": [f"{name}: {before:.1f} to {after:.1f}" for name, (before, after) in each.leaks.items()]
                + ([each.reason] if each.reason else []),
            }
            for each in report.what_if
            if each.leaks
        ],
        servers=[(each.server, said(each)) for each in report.validation],
        not_tried=list(report.not_tried.items()),
        limits=report.limits,
        setup=list(report.setup.items()),
    )


def _row(each: Leak, most: float) -> dict[str, Any]:
    return {
        "name": each.name,
        "title": each.title,
        "malicious": each.malicious,
        "cells": cells(each),
        "width": round(80 * (each.leak or 0.0) / most) if most else 0,
        "silent": None if each.known else each.facts["path"]["seen"],
        "tiles": list(_tiles(each)),
    }


def _tiles(each: Leak) -> Iterator[dict[str, Any]]:
    originals, found = each.arrays.get("originals"), each.arrays.get("reconstructions")
    for place in range(0 if found is None else len(found)):
        assert found is not None
        number = f"image {place + 1}"
        pictures = [_picture(found[place], f"what {each.name} made of {number}")]
        caption = f"{number}, original not known"
        if originals is not None:
            pictures.insert(0, _picture(originals[place], f"the original {number}"))
            leak, psnr = (each.facts["per_image"][name][place] for name in ("leak", "psnr"))
            ssim = each.facts["per_image"].get("ssim")
            caption = f"{leak:+.1f} dB (PSNR {psnr:.1f}{'' if ssim is None else f', SSIM {ssim[place]:.2f}'})"
        yield {"pictures": pictures, "caption": caption}


def _picture(image: np.ndarray, alt: str) -> dict[str, Any]:
    """An image (C, H, W) in bytes as a data URI, with its size on the page."""
    _, height, width = image.shape
    colour = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colour)).save(written, format="PNG")
    factor = max(1, _SIDE // max(height, width)) if max(height, width) <= _SIDE else _SIDE / max(height, width)
    return {
        "source": "data:image/png;base64," + base64.b64encode(written.getvalue()).decode(),
        "alt": alt,
        "width": round(width * factor),
        "height": round(height * factor),
    }
