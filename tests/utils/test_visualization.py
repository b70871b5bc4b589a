"""Figures: what they show is the data, their files are valid and the same every time."""

from __future__ import annotations

import itertools
import math
import re
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from convmixer.utils.architecture import architecture
from convmixer.utils.metrics import calibration_bins, expected_calibration_error
from convmixer.utils.visualization import (
    EpochRow,
    calibration_diagram,
    confusion_matrix,
    epoch_ticks,
    figure_svg,
    learning_curve,
    row_shares,
    save_figure,
)


def epochs(n: int, validated: bool = True) -> list[EpochRow]:
    return [
        EpochRow(i, 2 / i, 1 - 0.5 / i, 2.1 / i if validated else None, 0.9 - 0.5 / i if validated else None, 0.01 / i)
        for i in range(1, n + 1)
    ]


def panel(figure: Figure, title: str) -> Any:
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def line(axes: Any, label: str) -> Any:
    return next(item for item in axes.lines if item.get_label() == label)


@pytest.mark.parametrize("n", [1, 25, 200])
def test_learning_curve_shows_every_epoch(n: int, tmp_path: Path) -> None:
    rows = epochs(n)
    figure = learning_curve(rows, selected_epoch=n)
    for title, field in (("Loss", "loss"), ("Accuracy", "accuracy")):
        for label, part in (("training", "train"), ("validation", "val")):
            drawn = line(panel(figure, title), label)
            assert list(drawn.get_xdata()) == [row.epoch for row in rows]
            assert list(drawn.get_ydata()) == [getattr(row, f"{part}_{field}") for row in rows]
            assert (drawn.get_marker() == "o") == (n <= 40)  # a single epoch has no line to see
        assert list(line(panel(figure, title), f"kept: epoch {n}").get_xdata()) == [n, n]
    assert list(panel(figure, "Learning rate").lines[0].get_ydata()) == [row.lr for row in rows]
    save_figure(figure, tmp_path / "curve.png")


def test_learning_curve_without_validation(tmp_path: Path) -> None:
    figure = learning_curve(epochs(3, validated=False))
    assert [item.get_label() for item in panel(figure, "Loss").lines] == ["training"]
    save_figure(figure, tmp_path / "curve.svg")


def test_learning_curve_of_a_run_that_diverged(tmp_path: Path) -> None:
    rows = [EpochRow(1, 2.3, 0.1, None, None, 0.0), EpochRow(2, math.nan, 0.1, math.inf, 0.1, 0.0)]
    save_figure(learning_curve(rows), tmp_path / "curve.png")


def test_learning_curve_needs_an_epoch() -> None:
    with pytest.raises(ValueError, match="at least one epoch"):
        learning_curve([])


@pytest.mark.parametrize(
    ("first", "last", "want"),
    [
        (1, 1, [1]),
        (1, 2, [1, 2]),
        (1, 6, [1, 2, 3, 4, 5, 6]),
        (1, 25, [1, 5, 10, 15, 20, 25]),
        (1, 23, [1, 5, 10, 15, 20, 23]),
    ],
)
def test_epochs_have_round_ticks_and_both_ends(first: int, last: int, want: list[int]) -> None:
    assert epoch_ticks(first, last) == want


@given(st.integers(1, 50), st.integers(0, 2000))
def test_ticks_are_few_and_apart(first: int, length: int) -> None:
    ticks = epoch_ticks(first, first + length)
    assert (ticks[0], ticks[-1], len(ticks) <= 9) == (first, first + length, True)


def test_names_in_any_script_warn_of_nothing_and_stay_texts(tmp_path: Path) -> None:
    names = ["猫", "🐸 grenouilles", "कुत्ता"]
    figure = confusion_matrix(np.eye(3, dtype=int), names)
    for suffix in ("png", "svg"):
        save_figure(figure, tmp_path / f"confusion.{suffix}")
    svg = figure_svg(figure)
    assert all(f">{name}</text>" in svg for name in names)
    assert "'DejaVu Sans'" in svg


def mesh(figure: Figure) -> QuadMesh:
    (found,) = (item for item in figure.axes[0].collections if isinstance(item, QuadMesh))
    return found


def test_confusion_matrix_shows_counts_and_shares(tmp_path: Path) -> None:
    counts = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 3]])
    figure = confusion_matrix(counts, ["$1", "$2 & more$", "<b>"])
    want = [[0.8, 0.2, 0.0], [0.0, 0.0, 0.0], [0.25, 0.0, 0.75]]
    np.testing.assert_allclose(row_shares(counts), want)
    np.testing.assert_allclose(np.asarray(mesh(figure).get_array()).reshape(3, 3), want)
    assert [text.get_text() for text in figure.axes[0].texts] == [str(count) for count in counts.ravel()]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["$1", "$2 & more$", "<b>"]
    save_figure(figure, tmp_path / "confusion.svg")
    ElementTree.parse(tmp_path / "confusion.svg")


def test_a_hundred_classes_are_not_annotated() -> None:
    figure = confusion_matrix(np.eye(100, dtype=int), [str(i) for i in range(100)])
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticklabels()) == 100
    assert mesh(figure).get_rasterized()
    assert (
        figure.get_size_inches()[0] > confusion_matrix(np.eye(10, dtype=int), list("abcdefghij")).get_size_inches()[0]
    )


def test_confusion_matrix_needs_a_name_for_each_class() -> None:
    with pytest.raises(ValueError, match="does not fit 3 classes"):
        confusion_matrix(np.eye(2), ["a", "b", "c"])


def test_calibration_diagram_shows_the_bins(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1.0, 500)
    bins = calibration_bins(confidence, rng.random(500) < confidence**2)
    figure = calibration_diagram(bins)
    filled = [row for row in bins if row.count]
    top, bottom = figure.axes
    assert list(line(top, "accuracy").get_xdata()) == [row.confidence for row in filled]
    assert list(line(top, "accuracy").get_ydata()) == [row.accuracy for row in filled]
    (gaps,) = (item for item in top.collections if isinstance(item, LineCollection))
    lengths = [abs(segment[1, 1] - segment[0, 1]) for segment in gaps.get_segments()]
    weighted = sum(row.count * length for row, length in zip(filled, lengths, strict=True)) / 500
    assert weighted == pytest.approx(expected_calibration_error(bins))
    assert top.get_title(loc="left") == f"Calibration error {100 * weighted:.2f}%"
    assert sum(bar.get_height() for bar in bottom.patches) == pytest.approx(1.0)  # type: ignore[attr-defined]
    save_figure(figure, tmp_path / "calibration.png")


ARCHITECTURES = [(256, 8, 9, 2, 10, 32), (1536, 20, 9, 7, 1000, 224), (64, 2, 3, 1, 10, 8), (768, 32, 11, 14, 100, 224)]
BY_BLOCK = (256, 8, (9, 9, 5, 5, 5, 3, 3, 3), 2, 10, 32)


@pytest.mark.parametrize("sizes", [*ARCHITECTURES, BY_BLOCK])
def test_texts_of_the_architecture_keep_their_distance(sizes: tuple[int, ...]) -> None:
    figure = architecture(*sizes)
    figure.canvas.draw()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = {text: text.get_window_extent() for text in texts}
    for box in boxes.values():
        assert figure.bbox.x0 < box.x0 < box.x1 < figure.bbox.x1
        assert figure.bbox.y0 < box.y0 < box.y1 < figure.bbox.y1
    clashes: list[tuple[Text, Text]] = [
        (a, b) for a, b in itertools.combinations(texts, 2) if boxes[a].overlaps(boxes[b])
    ]
    assert not clashes


def test_architecture_names_sizes_and_shapes() -> None:
    words = {text.get_text() for text in architecture(512, 16, 7, 4, 100, 64).axes[0].texts}
    assert words >= {"ConvMixer-512/16", "× 16", "Depthwise 7×7", "Patches 4×4", "Pointwise 1×1"}
    assert words >= {"3 × 64 × 64", "512 × 16 × 16", "512", "100", "h × n/p × n/p"}
    assert words >= {"LayerNorm 512", "Linear 512 → 256", "Linear 256 → 256", "LayerNorm 256", "Linear 256 → 100"}
    assert words >= {"BatchNorm 512", "Dropout 0.2", "Linear 512 → 100", "512 → 256", "256", "256 → 512"}


def test_architecture_counts_kernels_by_block() -> None:
    words = " ".join(text.get_text() for text in architecture(*BY_BLOCK).axes[0].texts)
    assert "kernel size k = 9 (2 blocks), 5 (3 blocks), 3 (3 blocks)" in words
    assert "Depthwise k×k" in words


def test_the_committed_picture_is_what_the_code_draws(repository: Path, tmp_path: Path) -> None:
    committed = (repository / "docs" / "architecture.svg").read_bytes()
    made_with = re.search(rb"Matplotlib v([\w.]+)", committed)
    assert made_with is not None
    if made_with[1].decode() != matplotlib.__version__:
        pytest.skip("drawn with another version of matplotlib; python docs/figures.py draws it again")
    runpy.run_path(str(repository / "docs" / "figures.py"))["draw"](tmp_path)
    assert (tmp_path / "architecture.svg").read_bytes() == committed
    assert len(committed) < 150_000


def svg(path: Path) -> bytes:
    save_figure(learning_curve(epochs(5)), path)
    return path.read_bytes()


@pytest.mark.slow
def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    first = svg(tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 30, "axes.linewidth": 5, "svg.fonttype": "none"}):
        assert svg(tmp_path / "b.svg") == first
    assert b"date" not in first
    save_figure(learning_curve(epochs(5)), tmp_path / "a.png")
    save_figure(learning_curve(epochs(5)), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (1350, 690)
        assert "Software" not in image.info


@pytest.mark.slow
def test_figures_are_made_in_threads_and_leave_no_state(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(svg, [tmp_path / f"{i}.svg" for i in range(6)]))
    assert len(set(files)) == 1
    assert dict(matplotlib.rcParams) == before
    from matplotlib import pyplot as plt

    assert not plt.get_fignums()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figure.png"
    figure = learning_curve(epochs(2))
    save_figure(figure, path)
    whole = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        save_figure(figure, path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):  # a run's folder that vanished is not made anew
        save_figure(figure, tmp_path / "new" / "figure.png")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        save_figure(learning_curve(epochs(1)), tmp_path / "figure.pdf")
