"""What people do after the README, whose own lines tests/test_docs.py runs: their pictures, as pictures lie on disks.

Real processes in an empty folder; names with spaces and from several scripts, files of all formats, sizes and modes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.processes import run

pytestmark = pytest.mark.slow

CLASSES = {"green apples": (60, 180, 60), "Äpfel, rot": (190, 50, 50), "青い鳥": (50, 60, 190)}
FORMATS = (("jpg", "RGB"), ("png", "RGBA"), ("webp", "RGB"), ("bmp", "L"), ("gif", "P"), ("tiff", "RGB"), ("PNG", "P"))
SMALL = ("--image-size", "16", "--recipe", "strong-short", "--dim", "16", "--depth", "1", "--epochs", "6")


def take_pictures(folder: Path, count: int, seed: int) -> None:
    """Noise around a colour for each class; grey files keep the class by the brightness of a corner."""
    noise = np.random.default_rng(seed)
    for (name, colour), corner in zip(CLASSES.items(), (0, 128, 255), strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            suffix, mode = FORMATS[i % len(FORMATS)]
            height, width = noise.integers(20, 60, 2)
            pixels = (np.array(colour) + noise.integers(-40, 40, (height, width, 3))).astype(np.uint8)
            pixels[: height // 2] = corner
            Image.fromarray(pixels).convert(mode).save(folder / name / f"photo {i} – été.{suffix}")


def convmixer(folder: Path, *arguments: str, status: int = 0) -> tuple[str, str]:
    done = run(*arguments, cwd=folder)
    assert done.returncode == status, f"{arguments}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done.stdout, done.stderr


def test_from_a_folder_of_pictures_to_a_report(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    take_pictures(tmp_path / "my pictures", 42, seed=0)
    take_pictures(tmp_path / "new ones", 7, seed=1)

    _, err = convmixer(tmp_path, "data", "my pictures", status=2)
    assert "folder:my pictures" in err
    out, _ = convmixer(tmp_path, "data", "folder:my pictures", "--image-size", "16", "--sheet", "sheet.png")
    assert all(name in out for name in CLASSES)

    convmixer(tmp_path, "train", "--dataset", "folder:my pictures", *SMALL, "--out", "my run")
    summary = json.loads((tmp_path / "my run" / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.9

    # The folder moves, and other pictures come.
    shutil.move(tmp_path / "my pictures", tmp_path / "archive")
    out, _ = convmixer(tmp_path, "evaluate", "my run", "--dataset", "folder:archive", "--json")
    assert json.loads(out)["accuracy"] == summary["test_accuracy"]
    out, _ = convmixer(tmp_path, "predict", "my run", "new ones", "--json")
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == 7 * len(CLASSES)
    right = [answer["top"][0]["class"] == Path(answer["image"]).parent.name for answer in answers]
    assert sum(right) > 0.9 * len(right)

    again = ("--init-from", "my run", "--recipe", "finetune", "--dataset", "folder:archive", "--epochs", "1")
    convmixer(tmp_path, "train", *again, "--out", "second run")
    out, _ = convmixer(tmp_path, "runs", ".")
    assert all(name in out for name in ("my run", "second run"))
    convmixer(tmp_path, "report", "my run")
    page = (tmp_path / "my run" / "report" / "report.html").read_text()
    assert all(name in page for name in CLASSES)
    for picture in ("sheet.png", "my run/learning_curve.png", "my run/mistakes_test.png"):
        with Image.open(tmp_path / picture) as drawn:
            assert drawn.width > 200
    browser = request.getfixturevalue("browser")  # last: without one, the rest has been tested all the same
    opened_in_a_browser(tmp_path / "my run" / "report" / "report.html", browser)


def opened_in_a_browser(page: Path, browser: Any) -> None:
    """It opens without an error and without a network."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    tab, problems = context.new_page(), list[str]()
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: problems.extend([request.url] * (not request.url.startswith(("file:", "data:")))))
    tab.goto(page.resolve().as_uri())
    assert tab.locator("h1").inner_text()
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()
    assert problems == []
