"""The report as one HTML file: styles, script and pictures inside, nothing loaded from anywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from convmixer.report import tables
from convmixer.report.facts import facts, notes
from convmixer.report.pictures import Picture, Portrait
from convmixer.report.records import StudyRecord
from convmixer.utils import visualization as colours
from convmixer.utils.visualization import figure_svg

# Colours of the figures that the page sets by its scheme; heat maps keep theirs, with the texts on them.
_VARIABLES = {
    colours.INK: "ink",
    colours.MUTED: "muted",
    colours.LINE: "line",
    colours.GRID: "grid",
    colours.BLUE_TINT: "tint",
    **{colour: f"series-{i}" for i, colour in enumerate(colours.SERIES)},
}


def render(record: StudyRecord, pictures: Sequence[Picture], portrait: Portrait | None) -> str:
    """The page. The same records give the same page, but for what another version of matplotlib draws."""
    environment = Environment(
        loader=PackageLoader("convmixer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"tables": tables, "svg": inline_svg}
    template = environment.get_template("report.html.j2")
    sections: dict[str, list[Picture]] = {}
    for picture in pictures:
        sections.setdefault(picture.section, []).append(picture)
    return template.render(
        record=record, sections=sections, portrait=portrait, facts=facts(record), notes=notes(record)
    )


def inline_svg(picture: Picture) -> Markup:
    """A figure as part of the page: in its colours and font, named for screen readers, without clashing identifiers."""
    svg = figure_svg(picture.figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", picture.name)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = svg.replace("stroke: #ffffff", "stroke: var(--paper)").replace("'DejaVu Sans'", "var(--sans)")
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])  # type: ignore[index]
    label = escape(picture.alt)
    opening = f'<svg role="img" aria-label="{label}" style="--natural: {4 / 3 * width:.0f}px"'
    svg = re.sub(r'^<svg\b(.*?) width="[^"]*" height="[^"]*"', lambda m: opening + m[1], svg, count=1, flags=re.DOTALL)
    return Markup(svg)
