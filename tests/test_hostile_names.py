"""Names that are code elsewhere, as classes, data set and run: every output shows them, and none obeys them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convmixer.data import load_dataset
from convmixer.report import write_report
from convmixer.runtime.terminal import Terminal, printable
from convmixer.training import train
from tests.helpers.cli import Run
from tests.helpers.names import NAMES
from tests.helpers.runs import tiny_config

pytestmark = pytest.mark.slow

DATA, RUN = "=2+3 [red]\x1b[5m<b>`d`", "@run [bold] <i>|\x07`r`"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run and the data it was trained on; warnings, of fonts for example, are errors."""
    root = tmp_path_factory.mktemp("names")
    for number, name in enumerate(NAMES):
        folder = root / DATA / name
        folder.mkdir(parents=True)
        for index in range(4):
            pixels = np.random.default_rng(10 * number + index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}-{index}.png")
    config = tiny_config(dataset=f"folder:{root / DATA}", epochs=1, batch_size=16)
    with (root / "log").open("w") as log:
        train(config, root / "study" / RUN, console=Terminal(file=log, force_terminal=True, width=300))
    write_report(root / "study", root / "report")
    return root


def assert_harmless(text: str) -> None:
    """Nothing in a terminal's output but characters, line ends and rich's own colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text) if "\x1b" in text else text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", plain)


def shown(name: str, text: str) -> bool:
    """Whether a terminal's output has the name, wherever its lines are broken."""
    squeezed = re.sub(r"\s", "", text)
    return re.sub(r"\s", "", printable(name)) in squeezed


@pytest.mark.slow
def test_terminal(study: Path, convmixer: Run) -> None:
    run, data = study / "study" / RUN, study / DATA
    for command in (
        ("evaluate", run),
        ("predict", run, data, "--top-k", len(NAMES)),
        ("data", f"folder:{data}"),
        ("report", study / "study", "--out", study / "again"),
    ):
        status, out, err = convmixer(*command)
        assert status == 0, err
        assert_harmless(out + err)
        if command[0] != "report":
            assert [name for name in NAMES if not shown(name, out)] == []
    status, out, err = convmixer("evaluate", study / "no [red] \x1b[5m run")
    assert status == 2
    assert shown("no [red] \x1b[5m run", err)
    assert_harmless(err)


def test_terminal_of_lists_checks_and_estimates(study: Path, convmixer: Run) -> None:
    run, data = study / "study" / RUN, study / DATA
    small = ("--dim", 8, "--depth", 1, "--epochs", 1, "--batch-size", 16, "--engine", "plain")
    for command, name in (
        (("runs", study / "study"), RUN),
        (("compare", run, run), RUN),
        (("verify", study / "study"), ""),
        (("train", "--dataset", f"folder:{data}", *small, "--dry-run"), ""),
    ):
        status, out, err = convmixer(*command)
        assert status == 0, err
        assert_harmless(out + err)
        assert shown(name, out)
        assert "top-5" not in out
    status, out, err = convmixer("recipes", "no [red] \x1b[5m recipe")
    assert status == 2
    assert "no [red] \\x1b[5m recipe" in err
    assert_harmless(out + err)
    (run / "summary.json").write_bytes((run / "summary.json").read_bytes() + b" ")
    try:
        status, out, err = convmixer("verify", run)
    finally:
        (run / "summary.json").write_bytes((run / "summary.json").read_bytes()[:-1])
    assert status == 2
    assert shown(RUN, err)
    assert_harmless(out + err)


def test_log_of_training(study: Path) -> None:
    text = (study / "log").read_text()
    assert shown(DATA, text)
    assert shown(RUN, text)
    for own in ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A"):  # the progress bar's
        text = text.replace(own, "")
    assert_harmless(text.replace("\r", ""))


def test_json(study: Path, convmixer: Run) -> None:
    run = study / "study" / RUN
    _, out, _ = convmixer("predict", run, study / DATA, "--top-k", len(NAMES), "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {top["class"] for line in lines for top in line["top"]} == set(NAMES)
    _, out, _ = convmixer("evaluate", run, "--json")
    assert {row["name"] for row in json.loads(out)["per_class"]} == set(NAMES)
    assert set(json.loads((run / "dataset.json").read_text())["classes"]) == set(NAMES)
    assert json.loads((study / "report" / "records.json").read_text())["runs"][0]["path"] == RUN


def test_csv(study: Path) -> None:
    header, row = csv.reader(io.StringIO((study / "report" / "runs.csv").read_text()))
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)
    assert row[header.index("path")] == f"'{RUN}"


@pytest.mark.parametrize("folder", ["study", "study/" + RUN], ids=["study", "run"])
def test_markdown(study: Path, tmp_path: Path, folder: str) -> None:
    _, (path, *_) = write_report(study / folder, tmp_path / "report.md")
    text = path.read_text()
    assert_harmless(text)
    code = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)  # what is left outside spans of code
    assert not re.search(r"(?<!\\)<", code)
    assert not re.search(r"(?<!\\)`", code)
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    assert len(set(widths)) <= 6  # as many as there are tables: no name has added a column
    if folder != "study":
        escaped = "|".join(re.escape(name) for name in (r"\[bold\]", r"a\|b", r"\`tick\`", r"\<script\>alert(1)"))
        assert len(set(re.findall(escaped, text))) == 4


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts, self.tags, self.events, self.images = list[str](), set[str](), list[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.events += [name for name, _ in attrs if name.startswith("on")]
        self.images += [value or "" for name, value in attrs if name == "src"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html(study: Path, tmp_path: Path) -> None:
    """As a browser would read it: no element and no handler that a name has brought along."""
    _, (path,) = write_report(study / "study" / RUN, tmp_path / "report.html")
    page = _Page()
    page.feed(path.read_text())
    assert page.events == []
    assert page.tags.isdisjoint({"i", "b", "iframe"})
    assert all(source.startswith("data:image/") for source in page.images)
    assert path.read_text().count("<script") == path.read_text().count("</script>")
    text = "\n".join(page.texts)
    assert all(
        shown(name, text) for name in ("<script>alert(1)", "<img src=x onerror=alert(1)>", "[bold]", "$\\frac{1}{2}$")
    )


@pytest.mark.parametrize("subject", ["study", f"study/{RUN}"], ids=["study", "run"])
def test_page_in_a_browser(study: Path, tmp_path: Path, browser: Any, subject: str) -> None:
    """Nothing runs, nothing is asked for, nothing is complained about, and the names can be read."""
    _, (path,) = write_report(study / subject, tmp_path / "report.html")
    context, obeyed = browser.new_context(), list[str]()
    tab = context.new_page()
    for event in ("dialog", "console", "pageerror", "request"):
        tab.on(event, lambda seen: obeyed.append(getattr(seen, "url", str(seen))))
    tab.goto(path.as_uri())
    text = tab.evaluate("document.body.textContent")
    assert "owned" not in tab.title()
    context.close()
    assert [what for what in obeyed if what != path.as_uri() and not what.startswith("data:image/")] == []
    assert [name for name in NAMES if not shown(name, printable(text))] == []


def _confusion(study: Path) -> Path:
    return study / "study" / RUN / "confusion_test.png"


def _mistakes(study: Path) -> Path:
    return study / "study" / RUN / "mistakes_test.png"


@pytest.mark.parametrize("picture", [_confusion, _mistakes])
def test_pictures(study: Path, picture: Callable[[Path], Path]) -> None:
    with Image.open(picture(study)) as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_sheet(study: Path, convmixer: Run) -> None:
    status, _, err = convmixer("data", f"folder:{study / DATA}", "--sheet", "sheet.png")
    assert status == 0
    assert "Warning: Glyph" not in err


@pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")
def test_tensorboard(study: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugin_util import markdown_to_safe_html

    events = EventAccumulator(str(study / "study" / RUN / "tensorboard"))
    events.Reload()
    assert "train_loss" in events.Tags()["scalars"]
    (table,) = events.Tensors("configuration/text_summary")
    (markdown,) = table.tensor_proto.string_val
    shown_there = _Page()
    shown_there.feed(markdown_to_safe_html(markdown.decode()))
    assert shown_there.tags <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert shown(f"folder:{study / DATA}", "".join(shown_there.texts))


@pytest.mark.slow
def test_names_of_files_that_are_not_utf8(study: Path, tmp_path: Path, convmixer: Run) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(4):
            pixels = np.random.default_rng(index + len(name) * 7).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"caf\udce9-{name}{index}.png", "PNG")
    status, out, err = convmixer("predict", study / "study" / RUN, tmp_path / "pets", "--cam", "cam.png")
    assert status == 0, err
    assert "caf\ufffd-cat0.png: " in out
    status, _, err = convmixer("train", "--dataset", f"folder:{tmp_path / 'pets'}", "--dim", 8, "--depth", 1,
                               "--epochs", 1, "--batch-size", 4, "--engine", "plain", "--out", "run")  # fmt: skip
    assert status == 0, err
    assert load_dataset(f"folder:{tmp_path / 'pets'}").splits["test"].names[0].startswith("cat/caf\udce9")
    write_report(tmp_path / "run")
