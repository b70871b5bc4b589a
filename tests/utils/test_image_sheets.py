"""Sheets of images: every image is where it belongs, captions fit, and a thousand classes fit into a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from convmixer.utils.image_sheets import (
    MOST_CLASSES,
    ClassSamples,
    JudgedImage,
    gallery,
    sample_sheet,
    samples_per_class,
)
from convmixer.utils.visualization import save_figure


def plain(level: int, channels: int = 3, side: int = 8) -> np.ndarray:
    return np.full((channels, side, side), level, dtype=np.uint8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def pixels(figure: Figure, path: Path) -> np.ndarray:
    save_figure(figure, path)
    return np.asarray(Image.open(path).convert("RGB"))


def area(picture: np.ndarray, color: tuple[int, int, int]) -> tuple[int, float, float]:
    """Number of pixels of a colour, and the middle of their places: row, column."""
    rows, columns = np.nonzero((picture == color).all(axis=2))
    return len(rows), float(rows.mean()) if len(rows) else -1, float(columns.mean()) if len(columns) else -1


def test_a_sheet_shows_each_image_whole_on_its_side(tmp_path: Path) -> None:
    rows = [
        ClassSamples("cat", [plain(10), plain(20)], [plain(110), plain(120)]),
        ClassSamples("dog", [plain(30)], [plain(130, channels=1)]),
    ]
    figure = sample_sheet(rows, "pets", "--recipe strong")
    picture = pixels(figure, tmp_path / "sheet.png")
    found = {level: area(picture, (level, level, level)) for level in (10, 20, 30, 110, 120, 130)}
    assert {count for count, _, _ in found.values()} == {64 * 64}
    middle = {level: place for level, (_, *place) in found.items()}
    assert middle[10][0] == middle[20][0] == middle[110][0] < middle[30][0] == middle[130][0]
    assert middle[10][1] == middle[30][1] < middle[20][1] < middle[110][1] == middle[130][1] < middle[120][1]
    assert texts(figure)[2:] == ["cat", "dog"]
    assert "--recipe strong" in texts(figure)[1]


def test_images_of_any_size_are_scaled(tmp_path: Path) -> None:
    rows = [ClassSamples("a", [plain(10, side=224)], []), ClassSamples("b", [], [plain(20, side=3)])]
    picture = pixels(sample_sheet(rows, "x", "y"), tmp_path / "sheet.png")
    assert area(picture, (10, 10, 10))[0] == area(picture, (20, 20, 20))[0] == 64 * 64


@pytest.mark.parametrize("classes", [2, 12, 13, 100, MOST_CLASSES, MOST_CLASSES + 500])
def test_the_picture_stays_of_a_size_that_can_be_looked_at(classes: int) -> None:
    count = samples_per_class(classes)
    rows = [ClassSamples(f"class {i}", [plain(9)] * count, [plain(99)] * count) for i in range(classes)]
    figure = sample_sheet(rows, "many", "--recipe baseline")
    width, height = figure.get_size_inches() * figure.dpi
    assert max(width, height) < 3500
    assert 1 / 6 < width / height < 6
    assert len(texts(figure)) == 2 + min(classes, MOST_CLASSES)
    assert ("the first 1000 of 1500 classes" in texts(figure)[1]) == (classes > MOST_CLASSES)


@pytest.mark.parametrize("letter", ["x", "W", "i", "猫"])
def test_long_names_do_not_run_into_their_neighbours(letter: str) -> None:
    rows = [ClassSamples(letter * 300 + str(i), [plain(9)] * 2, [plain(99)] * 2) for i in range(200)]
    figure = sample_sheet(rows, letter * 500, letter * 500)
    assert all(len(text) < 260 and "…" in text for text in texts(figure))
    boxes = [text.get_clip_box() for text in figure.axes[0].texts]  # beyond which nothing is drawn
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
    starts = sorted({round(box.x0) for box in boxes[2:]})
    assert max(box.width for box in boxes[2:]) < min(np.diff(starts))


def test_shortened_names_keep_their_ends() -> None:
    rows = [ClassSamples(f"a class of some length, number {i}", [plain(9)] * 2, [plain(99)] * 2) for i in range(200)]
    names = texts(sample_sheet(rows, "x", "y"))[2:]
    assert len(set(names)) == 200
    assert all(name.startswith("a cl") and "…" in name for name in names)


@pytest.mark.parametrize("name", ["automobile", "Northern Goshawk", "WIDE NAMES OF MINE", "猫と犬"])
def test_short_names_are_whole(name: str) -> None:
    figure = sample_sheet([ClassSamples(name, [plain(9)] * 2, [plain(99)] * 2)] * 2, "x", "y")
    assert texts(figure)[2] == name


def test_a_gallery_shows_images_beside_their_heat_maps(tmp_path: Path) -> None:
    activation = np.zeros((2, 2), dtype=np.float32)
    activation[0, 1] = 3.0  # upper right
    shown = JudgedImage(plain(100), "cat → dog", "98.0 %", activation)
    figure = gallery([("Mistakes", [shown]), ("Uncertain", [])])
    picture = pixels(figure, tmp_path / "gallery.png")
    assert texts(figure) == ["Mistakes", "cat → dog", "98.0 %", "Uncertain"]
    top, left = np.argwhere((picture == 100).all(axis=2)).min(axis=0)
    heat = picture[top : top + 96, left + 98 : left + 98 + 96].astype(int)
    colourful = heat.max(axis=2) - heat.min(axis=2)
    assert colourful[:20, -20:].min() > 60
    assert colourful[-20:, :20].max() < 10


def test_a_constant_activation_is_no_obstacle(tmp_path: Path) -> None:
    flat = np.ones((3, 3), dtype=np.float32)
    save_figure(
        gallery([("x", [JudgedImage(plain(5), "a", "b", flat), JudgedImage(plain(5), "a", "b")])]), tmp_path / "g.png"
    )


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        sample_sheet([], "x", "y")
    with pytest.raises(ValueError, match="at least one section"):
        gallery([])


@pytest.mark.parametrize("name", ["猫と犬", "ไก่", "बिल्ली", "😺", "$x_1^2$", "in [bold]", "two\nlines"])
def test_names_in_any_script_are_drawn_without_a_warning(name: str, tmp_path: Path) -> None:
    sheet = sample_sheet([ClassSamples(name, [plain(9)], [plain(99)])], name, name)
    assert texts(sheet)[2] == name
    for suffix in ("png", "svg"):
        save_figure(sheet, tmp_path / f"sheet.{suffix}")
    save_figure(gallery([(name, [JudgedImage(plain(9), name, name)])]), tmp_path / "gallery.png")
