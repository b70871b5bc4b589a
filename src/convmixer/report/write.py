"""Writing a report: everything into a folder, or one of its forms into a file."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from convmixer.errors import InputError
from convmixer.files import write_atomic
from convmixer.report import render
from convmixer.report.collect import collect
from convmixer.report.compare import summarize
from convmixer.report.figures import draw_figures, featured_run
from convmixer.report.records import RunRow, StudyRecord
from convmixer.utils.visualization import save_figure

FORMS = {".html": "report", ".md": "report", ".json": "records", ".csv": "runs"}
"""Suffix and, in a folder with all of them, name of the file."""
FIGURES = "figures"


def write_report(folder: str | Path, out: str | Path | None = None) -> tuple[StudyRecord, list[Path]]:
    """Reports a study, a folder of runs or a single run.

    Args:
        folder: what to report.
        out: a file whose suffix (.html, .md, .json, .csv) says what to write, or a folder for all of them: report.html,
            report.md, records.json, runs.csv and figures/. ``folder``/report by default.

    Returns:
        What the report says, and the files that were written.

    Raises:
        InputError: nothing to report there, another suffix, or the report cannot be written.
    """
    chosen = out is not None
    out = Path(out) if out is not None else Path(folder) / "report"
    if re.fullmatch(r"\.[A-Za-z]{2,5}", out.suffix) and out.suffix not in FORMS and not out.is_dir():
        raise InputError(f"--out: a report is not written as {out.suffix}; give a folder or a {', '.join(FORMS)} file.")
    for inner in (out / FIGURES, *(() if chosen else (out,))):
        if inner.is_symlink():  # one that a stranger's folder came with, to wherever it points
            raise InputError(f"{inner}: is a link, and links are not written through; remove it, or choose --out.")
    study = collect(folder)
    record = summarize(study, shlex.join(["convmixer", "report", study.folder.resolve().name]))
    files = {out.suffix: out} if out.suffix in FORMS else {s: out / f"{name}{s}" for s, name in FORMS.items()}
    figures = draw_figures(record, study) if {".html", ".md"} & files.keys() else []
    featured = featured_run(record, study)
    texts = {
        ".html": lambda: render.page(record, figures, featured),
        ".md": lambda: render.markdown(record, figures, featured, FIGURES),
        ".json": lambda: json_text(record),
        ".csv": lambda: csv_text(record),
    }
    written = []
    try:
        for suffix, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, texts[suffix]())
            written.append(path)
        if ".md" in files:
            for figure in figures:
                written.append(files[".md"].parent / FIGURES / f"{figure.name}.png")
                written[-1].parent.mkdir(exist_ok=True)
                if isinstance(figure.figure, bytes):
                    write_atomic(written[-1], figure.figure)
                else:
                    save_figure(figure.figure, written[-1])
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror or error}); choose another --out.") from None
    return record, written


def json_text(record: StudyRecord) -> str:
    """All records as JSON."""
    return json.dumps(record.to_dict(), indent=2, allow_nan=False) + "\n"


def csv_text(record: StudyRecord) -> str:
    """The runs as CSV, a line each with all fields of :class:`RunRow`; what does not exist is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [field.name for field in fields(RunRow)]
    writer.writerow(names)
    writer.writerows([_plain(getattr(run, name)) for name in names] for run in record.runs)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, tuple):
        value = "; ".join(value)
    # Spreadsheets take such texts for formulas; an apostrophe tells them not to.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
