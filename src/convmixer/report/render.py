"""The report as text: one HTML file with everything inside, or Markdown with its figures as files beside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from convmixer.report import files, insight, tables
from convmixer.report.figures import FeaturedRun, ReportFigure
from convmixer.report.records import StudyRecord
from convmixer.report.tables import Cell, Table
from convmixer.utils import visualization as colours
from convmixer.utils.formatting import NOTHING
from convmixer.utils.markdown import code, escaped
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


def page(record: StudyRecord, figures: Sequence[ReportFigure], featured: FeaturedRun | None) -> str:
    """The page. The same records give the same page, but for what another version of matplotlib draws."""
    environment = Environment(
        loader=PackageLoader("convmixer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"tables": tables, "insight": insight, "inlined": inlined, "files": files}
    sections: dict[str, list[ReportFigure]] = {}
    for figure in figures:
        sections.setdefault(figure.section, []).append(figure)
    return environment.get_template("report.html.j2").render(record=record, sections=sections, featured=featured)


def inlined(figure: ReportFigure) -> Markup:
    """A figure as part of the page: in its colours and font, named for screen readers, without clashing identifiers."""
    if isinstance(figure.figure, bytes):
        content = base64.b64encode(figure.figure).decode()
        return Markup(f'<img alt="{escape(figure.alt)}" src="data:image/png;base64,{content}">')
    svg = figure_svg(figure.figure)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", figure.name)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = svg.replace("stroke: #ffffff", "stroke: var(--paper)").replace("'DejaVu Sans'", "var(--sans)")
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])  # type: ignore[index]
    opening = f'<svg role="img" aria-label="{escape(figure.alt)}" style="--natural: {4 / 3 * width:.0f}px"'
    svg = re.sub(r'^<svg\b(.*?) width="[^"]*" height="[^"]*"', lambda m: opening + m[1], svg, count=1, flags=re.DOTALL)
    return Markup(svg)


# Markdown


def markdown(record: StudyRecord, figures: Sequence[ReportFigure], featured: FeaturedRun | None, folder: str) -> str:
    """The document; its figures are ``<folder>/<name>.png``."""

    def drawn(section: str) -> str:
        own = [figure for figure in figures if figure.section == section]
        return "\n\n".join(f"![{escaped(figure.alt)}]({folder}/{figure.name}.png)" for figure in own)

    known = insight.facts(record).items()
    parts = [f"# {escaped(record.name)}", "\n".join(f"- {name}: {escaped(value)}" for name, value in known)]
    if record.problems:
        parts += ["## Could not be read", "\n".join(f"- {escaped(problem)}" for problem in record.problems)]
    if record.single is not None:
        parts.append(markdown_table(tables.run_metrics(record.single)))
    for experiment in record.experiments if record.single is None else ():
        parts += [f"## {escaped(experiment.title)}", escaped(experiment.question)]
        parts += [_origin(experiment.dataset, experiment.profile, experiment.command)]
        if experiment.designed:
            parts += [markdown_table(tables.comparison(experiment)), markdown_table(tables.metrics(experiment))]
        else:
            parts += [markdown_table(tables.ranking(experiment, record))]
        parts += [drawn(experiment.name)]
    for search in record.searches:
        parts += [f"## {escaped(search.title)}", escaped(insight.of_search(search))]
        parts += [_origin(search.dataset, search.sampler, search.command)]
        if search.winner is not None:
            winner = search.winner
            parts.append(markdown_table(tables.summary([(winner, insight.of_row(winner, None))], "Winner")))
        parts += [markdown_table(tables.trials(search)), drawn(search.name)]
    for measured in record.files:
        parts += [f"## {escaped(measured.title)}", escaped(files.files_conditions(measured))]
        parts += [markdown_table(files.files_table(measured)), drawn(measured.name)]
    if featured is not None:
        if record.single is None:
            parts += ["## A closer look", f"{escaped(featured.label)}: {code(featured.run.row.path)}"]
        parts.append(drawn("featured"))
        if featured.run.evaluation is not None:
            parts += ["### Classes", markdown_table(tables.classes(featured.run.evaluation))]
        if featured.run.config is not None:
            settings = (tables.run_settings(featured.run.config, changed=changed) for changed in (True, False))
            parts += [part for table in settings for part in (f"### {table.caption}", markdown_table(table))]
    if record.single is None and record.runs:
        parts += ["## All runs", markdown_table(tables.runs(record))]
    parts += ["## How to read this", "\n".join(f"- {note}" for note in insight.notes(record))]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """A table of pipes; notes follow in brackets."""
    lines = [map(escaped, table.headers), ("---",) * len(table.headers), *(map(_cell, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    text = code(cell.text).replace("|", "\\|") if cell.code and cell.text != NOTHING else escaped(cell.text)
    return f"{text} ({escaped(cell.note)})" if cell.note else text


def _origin(dataset: str | None, how: str | None, command: str | None) -> str:
    words = ", ".join(escaped(word) for word in (dataset, how) if word)
    return " ".join(
        part for part in (words + ":" if words and command else words, code(command) if command else "") if part
    )
