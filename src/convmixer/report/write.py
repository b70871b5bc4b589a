"""Writing a report: everything into a folder, or one of its forms into a file."""

from __future__ import annotations

import csv
import io
import json
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from convmixer.errors import InputError
from convmixer.files import write_atomic
from convmixer.report import markdown, page
from convmixer.report.collect import collect
from convmixer.report.compare import summarize
from convmixer.report.pictures import Picture, draw_pictures, portrait
from convmixer.report.records import RunRow, StudyRecord
from convmixer.utils.visualization import save_figure

FORMS = (".html", ".md", ".json", ".csv")
PICTURES = "pictures"


def write_report(folder: str | Path, out: str | Path | None = None) -> tuple[StudyRecord, list[Path]]:
    """Reports a study, a folder of runs or a single run.

    Args:
        folder: what to report.
        out: a file whose suffix (.html, .md, .json, .csv) says what to write, or a folder for all of them: report.html,
            report.md, records.json, runs.csv and pictures/. ``folder``/report by default.

    Returns:
        What the report says, and the files that were written.

    Raises:
        InputError: nothing to report there, or the report cannot be written.
    """
    out = Path(out) if out is not None else Path(folder) / "report"
    study = collect(folder)
    record = summarize(study, shlex.join(["convmixer", "report", study.folder.resolve().name]))
    single = out.suffix in FORMS
    files = {out.suffix: out} if single else {s: out / f"{name}{s}" for s, name in zip(FORMS, _NAMES, strict=True)}
    drawn: list[Picture] = draw_pictures(record, study) if {".html", ".md"} & files.keys() else []
    chosen = portrait(record, study)
    texts = {
        ".html": lambda: page.render(record, drawn, chosen),
        ".md": lambda: markdown.render(record, drawn, chosen, PICTURES),
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
            for picture in drawn:
                written.append(files[".md"].parent / PICTURES / f"{picture.name}.png")
                save_figure(picture.figure, written[-1])
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror or error}); choose another --out.") from None
    return record, written


_NAMES = ("report", "report", "records", "runs")


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
    if isinstance(value, tuple):
        return "; ".join(value)
    return json.dumps(value) if isinstance(value, dict) else value
