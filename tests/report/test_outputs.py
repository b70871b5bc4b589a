"""The forms of a report: they say the same, they are whole, and bad input is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from convmixer.report import tables, write_report
from convmixer.report.insight import of_row
from convmixer.report.records import StudyRecord
from convmixer.utils.comparisons import MeanInterval
from convmixer.utils.formatting import mean_accuracy, percent
from convmixer.utils.markdown import escaped
from tests.helpers.cli import Run


class Tables(HTMLParser):
    """The texts of a page's tables, a list of rows each, and everything that is named by an attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self._open = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._open = True
        elif tag == "small":
            self.tables[-1][-1][-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="session")
def written(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(study_folder, out)
    return out


@pytest.fixture(scope="session")
def html(written: Path) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


def test_everything_is_written(written: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert names == {"report.html", "report.md", "records.json", "runs.csv", "figures"}
    for path in (written / "figures").iterdir():
        with Image.open(path) as image:
            image.verify()


def test_the_page_has_the_figures_of_the_records(html: str, record: StudyRecord) -> None:
    summary = Tables(html).tables[0]
    assert summary[0] == ["Model", "Test accuracy", "Train accuracy", "Epoch time", "Key insight"]
    for cells, row in zip(summary[1:], record.experiments[0].rows, strict=True):
        assert cells[0].split("|")[0] == row.label
        assert cells[4] == of_row(row, record.experiments[0].rows[0])
        for cell, interval in ((cells[1], row.test_accuracy), (cells[2], row.train_accuracy)):
            numbers = [float(n) for n in re.findall(r"[\d.]+", cell.split("|")[0])]
            assert numbers[:1] == pytest.approx([] if interval is None else [100 * interval.mean], abs=0.00501)
            assert cell == mean_accuracy(interval)
    runs = Tables(html).tables[-1]
    assert [cells[0] for cells in runs[1:]] == [run.name for run in record.runs]
    shown = [cells[runs[0].index("Test")] for cells in runs[1:]]
    assert [text.split(" ")[0] for text in shown] == [percent(run.test_accuracy) for run in record.runs]


def test_every_figure_leads_to_its_runs(html: str, record: StudyRecord) -> None:
    attributes = Tables(html).attributes
    identifiers = {value for _, name, value in attributes if name == "id"}
    targets = {value[1:] for tag, name, value in attributes if (tag, name) == ("a", "href")}
    assert targets <= identifiers
    assert {tables.anchor(run.path) for run in record.runs if run.purposes} <= targets


def test_identifiers_are_unique(html: str) -> None:
    identifiers = re.findall(r'\bid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))


def test_the_page_is_self_contained(html: str) -> None:
    attributes = Tables(html).attributes
    fetched = [value for _, name, value in attributes if name in ("src", "href", "xlink:href")]
    assert all(value.startswith(("#", "data:")) for value in fetched)
    assert "@import" not in html
    assert not re.search(r"url\((?!#|data:)", html)


def test_names_are_text_and_not_markup(html: str) -> None:
    assert "<bold>" not in html
    assert "wide &amp; &lt;bold&gt;" in html
    assert "tiny &lt;study&gt;" in html


def test_every_picture_is_named_for_those_who_do_not_see(html: str) -> None:
    pictures = re.findall(r"<svg\b[^>]*>", html)
    assert pictures
    assert all(re.search(r'role="img" aria-label="[^"]{20,}"', picture) for picture in pictures)


def test_json_is_the_record(written: Path, record: StudyRecord) -> None:
    values = json.loads((written / "records.json").read_text())
    want = json.loads(json.dumps(record.to_dict()))
    assert {**values, "command": ""} == {**want, "command": ""}


def test_records_come_back_from_json(written: Path) -> None:
    values = json.loads((written / "records.json").read_text())
    back = StudyRecord.from_dict(values)
    assert json.loads(json.dumps(back.to_dict())) == values
    assert isinstance(back.experiments[0].rows[0].test_accuracy, MeanInterval)
    assert isinstance(back.runs[0].purposes, tuple)


def test_csv_is_the_runs(written: Path, record: StudyRecord) -> None:
    rows = list(csv.DictReader(io.StringIO((written / "runs.csv").read_text())))
    assert [row["path"] for row in rows] == [run.path for run in record.runs]
    for row, run in zip(rows, record.runs, strict=True):
        assert row["test_accuracy"] == ("" if run.test_accuracy is None else str(run.test_accuracy))
        assert row["purposes"] == "; ".join(run.purposes)


def markdown_rows(text: str) -> list[list[list[str]]]:
    blocks = re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE)
    split = [[re.split(r"(?<!\\)\|", line)[1:-1] for line in block.strip().splitlines()] for block in blocks]
    return [[[cell.strip() for cell in row] for row in block] for block in split]


def test_markdown_says_what_json_says(written: Path) -> None:
    values = json.loads((written / "records.json").read_text())
    found = markdown_rows((written / "report.md").read_text(encoding="utf-8"))
    experiment, back = values["experiments"][0], StudyRecord.from_dict(values).experiments[0]
    base = back.rows[0]
    for cells, row, raw in zip(found[0][2:], back.rows, experiment["rows"], strict=True):
        interval = MeanInterval(**raw["test_accuracy"]) if raw["test_accuracy"] else None
        assert cells[0].startswith(escaped(raw["label"]))
        assert cells[1] == escaped(mean_accuracy(interval))
        assert cells[4] == escaped(of_row(row, base))
    trials = next(block for block in found if block[0][0] == "Trial")
    ranked = sorted(values["searches"][0]["trials"], key=lambda t: -(t["val_accuracy"] or 0))
    assert [row[1] for row in trials[2:]] == [escaped(percent(t["val_accuracy"])) for t in ranked]
    runs = found[-1]
    assert [row[0] for row in runs[2:]] == [escaped(run["name"]) for run in values["runs"]]
    assert all(len(row) == len(block[0]) for block in found for row in block)


def test_pictures_of_the_markdown_are_there(written: Path) -> None:
    text = (written / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[(.+?)\]\(([^)]+)\)", text)
    assert {Path(path).name for _, path in pictures} == {path.name for path in (written / "figures").iterdir()}
    assert all((written / path).is_file() and len(alt) > 20 for alt, path in pictures)


@pytest.mark.slow
def test_the_same_study_gives_the_same_files(study_folder: Path, written: Path, tmp_path: Path) -> None:
    write_report(study_folder, tmp_path)
    for path in written.rglob("*.*"):
        assert (tmp_path / path.relative_to(written)).read_bytes() == path.read_bytes(), path.name


# The command line


@pytest.fixture
def loose(study_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(study_folder / "runs" / "base-0", tmp_path / "loose" / "base-0")
    return tmp_path / "loose"


def test_the_command_prints_the_table(convmixer: Run, loose: Path) -> None:
    status, out, err = convmixer("report", loose)
    assert status == 0
    assert "Test accuracy" in out
    assert "report.html" in err
    assert (loose / "report" / "report.md").is_file()


@pytest.mark.parametrize("suffix", [".html", ".md", ".json", ".csv"])
def test_a_single_file(convmixer: Run, loose: Path, tmp_path: Path, suffix: str) -> None:
    status, _, _ = convmixer("report", loose, "--out", tmp_path / "out" / f"mine{suffix}")
    assert status == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {f"mine{suffix}"} | ({"figures"} if suffix == ".md" else set())


def test_json_and_csv_for_machines(convmixer: Run, loose: Path, tmp_path: Path) -> None:
    status, out, _ = convmixer("report", loose, "--out", tmp_path / "r.json", "--json")
    assert status == 0
    assert out == (tmp_path / "r.json").read_text()
    status, out, _ = convmixer("report", loose, "--out", tmp_path / "r.csv", "--csv")
    assert status == 0
    assert out == (tmp_path / "r.csv").read_text()


def test_a_broken_run_is_a_warning(convmixer: Run, loose: Path, tmp_path: Path) -> None:
    (loose / "base-0" / "config.json").write_text("{")
    status, _, err = convmixer("report", loose, "--out", tmp_path / "r.html")
    assert status == 0
    assert "base-0" in err
    assert "Could not be read" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "is not a folder"),
        (("empty",), "holds no runs"),
        (("loose", "--json", "--csv"), "only one of them"),
        (("loose", "--out", "file/report"), "cannot be written"),
    ],
)
def test_bad_input(convmixer: Run, loose: Path, arguments: tuple[str, ...], message: str) -> None:
    Path("empty").mkdir()
    Path("file").touch()
    status, out, err = convmixer("report", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_as_a_process(loose: Path) -> None:
    command = [sys.executable, "-m", "convmixer", "report", str(loose), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"][0]["path"] == "base-0"
