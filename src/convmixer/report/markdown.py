"""The report as Markdown, its pictures as files beside it."""

from __future__ import annotations

from collections.abc import Sequence

from convmixer.report import tables
from convmixer.report.facts import facts, notes
from convmixer.report.pictures import Picture, Portrait
from convmixer.report.records import StudyRecord
from convmixer.report.tables import Cell, Table


def render(record: StudyRecord, pictures: Sequence[Picture], portrait: Portrait | None, folder: str) -> str:
    """The document; its pictures are ``<folder>/<name>.png``."""
    parts = [f"# {record.name}", "\n".join(f"- {name}: {escaped(value)}" for name, value in facts(record).items())]
    if record.problems:
        parts += ["## Could not be read", "\n".join(f"- {escaped(problem)}" for problem in record.problems)]
    for experiment in record.experiments:
        parts += [f"## {experiment.name.replace('_', ' ').capitalize()}", escaped(experiment.question)]
        parts += [_origin(experiment.dataset, experiment.profile, experiment.command)]
        parts += [markdown_table(tables.summary(experiment.rows, "Summary"))]
        parts += [markdown_table(tables.figures(experiment)), _pictures(pictures, experiment.name, folder)]
    if record.grid is not None:
        grid = record.grid
        parts += ["## Grid search", escaped(grid.insight), _origin(grid.dataset, grid.sampler, grid.command)]
        if grid.winner is not None:
            parts.append(markdown_table(tables.summary([grid.winner], "Winner")))
        parts += [markdown_table(tables.trials(grid)), _pictures(pictures, grid.name, folder)]
    if portrait is not None:
        parts += ["## A closer look", f"{escaped(portrait.label)}: `{portrait.run.row.path}`"]
        parts += [_pictures(pictures, "portrait", folder)]
    parts += ["## All runs", markdown_table(tables.runs(record))]
    parts += ["## How to read this", "\n".join(f"- {note}" for note in notes(record))]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a paragraph as in a table's cell."""
    for mark in "\\`*_{}[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def markdown_table(table: Table) -> str:
    """A table of pipes; notes follow in brackets."""
    lines = [table.headers, ("---",) * len(table.headers), *(map(_cell, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    text = f"`{cell.text}`" if cell.code and cell.text != tables.NOTHING else escaped(cell.text)
    return f"{text} ({escaped(cell.note)})" if cell.note else text


def _origin(dataset: str | None, how: str | None, command: str | None) -> str:
    words = ", ".join(escaped(word) for word in (dataset, how) if word)
    return " ".join(
        part for part in (words + ":" if words and command else words, f"`{command}`" if command else "") if part
    )


def _pictures(pictures: Sequence[Picture], section: str, folder: str) -> str:
    own = [picture for picture in pictures if picture.section == section]
    return "\n\n".join(f"![{escaped(picture.alt)}]({folder}/{picture.name}.png)" for picture in own)
