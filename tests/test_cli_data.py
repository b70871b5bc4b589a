"""convmixer data: what it prints, and the sheet it draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convmixer.presets import RECIPES
from tests.helpers.cli import Run


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes whose names rich would take for markup, one test image that is a training image as well."""
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("in [bold]", "猫"):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "pets/test/猫/0.png").write_bytes((tmp_path / "pets/train/猫/3.png").read_bytes())
    return tmp_path / "pets"


def test_all_that_is_found_is_printed(convmixer: Run, pets: Path) -> None:
    status, out, err = convmixer("data", f"folder:{pets}", "--image-size", 16)
    assert status == 0
    rows = [line.split("│")[1:5] for line in out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["in [bold]", "5", "1", "2"],
        ["猫", "5", "1", "2"],
        ["all classes", "10", "2", "4"],
    ]
    assert "equal images (same pixels): 2 in 1 group" in out
    assert "train/猫/3.png (猫)" in out
    assert "test/猫/0.png (猫)" in out
    assert "sizes: 16 30×20" in out
    assert "cut to a square: 33% of an image's area is lost" in out
    assert err.count("pixel for pixel") == 1


def test_json_has_all_of_it(convmixer: Run, pets: Path) -> None:
    status, out, _ = convmixer("data", f"folder:{pets}", "--json", "--val-fraction", 0)
    assert status == 0
    found = json.loads(out)
    assert found["sizes"] == {"train": 12, "test": 4}
    inspection = found["inspection"]
    assert inspection["counts"] == {"train": [6, 6], "test": [2, 2]}
    assert inspection["duplicates"]["across"] == {"test in train": 1}
    assert inspection["near_duplicates"]["groups"] == 0
    assert inspection["originals"]["width"] == {"smallest": 30, "median": 30, "largest": 30}
    assert len(inspection["warnings"]) == 1


def test_the_sheet_shows_what_the_flags_ask_for(convmixer: Run) -> None:
    def sheet(*flags: object) -> np.ndarray:
        status, _, err = convmixer("data", "digits", "--sheet", "sheet.png", *flags)
        assert status == 0
        assert "Written: sheet.png" in err
        return np.asarray(Image.open("sheet.png").convert("L"))

    off = ("--crop", "none", "--randaugment", 0)
    plain, strong = sheet(*off), sheet("--recipe", "strong")
    images = plain[90:]  # below the title
    left, right = images[:, 16:542], images[:, 554:1080]
    assert (np.abs(left.astype(int) - right) > 60).mean() < 0.03  # the names of the classes stand on the left alone
    assert (strong[90:, :542] == plain[90:, :542]).all()
    assert (strong[90:, 554:] != plain[90:, 554:]).mean() > 0.2
    assert (sheet("--recipe", "strong", *off)[90:] == images).all()
    assert RECIPES["strong"].augment.crop != "none"


def test_a_hundred_classes_are_summed_up(convmixer: Run, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "many" / f"class {number:02}"
        folder.mkdir(parents=True)
        for index in range(3):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    _, out, _ = convmixer("data", f"folder:{tmp_path / 'many'}", "--sheet", "many.png")
    assert "class 29" in out
    assert "class 30" not in out
    assert "… 10 more" in out
    with Image.open("many.png") as sheet:
        assert max(sheet.size) < 3000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--sheet", "sheet.gif"), "--sheet: sheet.gif is neither a .png nor a .svg"),
        (("--recipe", "stong"), "did you mean 'strong'"),
        (("--erasing", "2"), "--erasing: 2.0 is out of range"),
    ],
)
def test_what_is_wrong_is_said(convmixer: Run, flags: tuple[str, ...], message: str) -> None:
    status, out, err = convmixer("data", "digits", *flags)
    assert (status, out) == (2, "")
    assert message in err


def test_bad_files_end_the_command_or_are_left_out(convmixer: Run, pets: Path) -> None:
    (pets / "train" / "猫" / "x.png").write_text("no image")
    status, _, err = convmixer("data", f"folder:{pets}", "--image-size", 16)
    assert status == 2
    assert "x.png is not a JPEG" in err
    status, out, err = convmixer("data", f"folder:{pets}", "--image-size", 16, "--bad-images", "skip", "--json")
    assert status == 0
    assert json.loads(out)["sizes"] == {"train": 10, "val": 2, "test": 4}
    assert "skipped 1 of 17 files" in " ".join(err.split())
