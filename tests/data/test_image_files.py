"""Which files are images: the same for training and for prediction; order of classes; bad files that are skipped."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from convmixer.config import DataConfig
from convmixer.data import Dataset, images, load_dataset
from convmixer.data.folder import natural_key
from convmixer.data.image_files import find_images, format_of
from convmixer.data.images import prepared
from convmixer.inference import ImageInput, Prediction, Unreadable, predict_images


def picture(path: Path, seed: int = 0, form: str = "PNG", side: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, form)
    return path


def classes(root: Path, names: tuple[str, ...] = ("cat", "dog"), count: int = 6) -> Path:
    for number, name in enumerate(names):
        for index in range(count):
            picture(root / name / f"{index}.png", 100 * number + index)
    return root


def load(root: Path, **options: object) -> tuple[Dataset, str]:
    """The data set, and what is said on the way."""
    said = io.StringIO()
    data = load_dataset(DataConfig(dataset=f"folder:{root}", **options), console=Console(file=said, width=10_000))
    return data, said.getvalue()


def trained_on(root: Path) -> list[str]:
    data, _ = load(root)
    return sorted(name for split in data.splits.values() for name in split.names)


class _Brightness:
    """A predictor for tests: class 1 for images that are brighter than the middle."""

    name, classes, input, batch_size = "brightness", ("dark", "bright"), ImageInput(8, 3), 4

    def logits(self, images: np.ndarray) -> np.ndarray:
        mean = images.reshape(len(images), -1).mean(axis=1)
        return np.stack((127.5 - mean, mean - 127.5), axis=1).astype(np.float32)


def predicted(*sources: object) -> tuple[list[str], list[str]]:
    """Names that were predicted, and reasons why others were not."""
    answers = list(predict_images(_Brightness(), map(str, sources)))
    good = [answer.image for answer in answers if isinstance(answer, Prediction)]
    return good, [answer.reason for answer in answers if isinstance(answer, Unreadable)]


def _hidden(root: Path) -> int:
    picture(root / "cat" / ".ipynb_checkpoints" / "0.png")
    picture(root / ".ipynb_checkpoints" / "0.png")
    picture(root / "cat" / ".0.png")
    return 12


def _left_by_file_managers(root: Path) -> int:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (root / "dog" / name).write_bytes(b"\0\5\x16\7")
    picture(root / "dog" / "__MACOSX" / "0.png")
    return 12


def _suffixes(root: Path) -> int:
    forms = {"a.JPG": "JPEG", "b.jfif": "JPEG", "c.jpe": "JPEG", "d": "PNG", "e.Gif": "GIF", "f.tiff": "TIFF"}
    forms |= {"g.tif": "TIFF", "h.webp": "WEBP", "i.bmp": "BMP", "j.12": "PNG", "k.txt.png": "PNG"}
    for name, form in forms.items():
        picture(root / "cat" / name, form=form)
    return 23


def _links(root: Path) -> int:
    shutil.move(root / "cat", root.parent / "elsewhere")
    (root / "cat").symlink_to("../elsewhere")
    (root / "dog" / "linked.png").symlink_to("../cat/0.png")
    return 13


def _side_files(root: Path) -> int:
    for name in ("0.txt", "metadata.json", "labels.csv", "notes", "raw.heic"):
        (root / "cat" / name).write_text("text")
    return 12


def _below(root: Path) -> int:
    picture(root / "cat" / "tabby" / "old" / "0.png", 50)
    return 13


@pytest.mark.parametrize("change", [_hidden, _left_by_file_managers, _suffixes, _links, _side_files, _below])
def test_training_and_prediction_take_the_same_files(tmp_path: Path, change) -> None:
    root = classes(tmp_path / "pets")
    expected = change(root)
    found, complaints = predicted(root)
    assert complaints == []
    assert sorted(str(Path(name).relative_to(root)) for name in found) == trained_on(root)
    assert len(found) == expected


def test_what_is_not_taken_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part in ("Training", "test", "old runs"):
        classes(tmp_path / part)
    for index in range(3):
        (tmp_path / "Training" / "cat" / f"{index}.txt").write_text("a cat")
        (tmp_path / "test" / "dog" / f"{index}.heic").write_text("")
    picture(tmp_path / "Training" / "cat" / "tabby" / "0.png", 50)
    data, said = load(tmp_path)
    assert data.info.sizes == {"train": 11, "val": 2, "test": 12}
    assert f"{tmp_path}: skipped files that are no images: 3 .txt, 3 .heic." in said
    assert "1 images lie in folders below that of their class" in said
    assert f"{tmp_path}: not used, as it is neither train nor validation nor test: old runs." in said
    with caplog.at_level("INFO", "convmixer"):
        predicted(tmp_path / "Training")
    assert "skipped files that are no images: 3 .txt." in caplog.text


def test_what_cannot_be_read_ends_no_prediction_of_others(tmp_path: Path) -> None:
    root = classes(tmp_path / "pets")
    (root / "cat" / "broken.png").symlink_to("nowhere")
    (root / "cat" / "self.png").symlink_to("self.png")
    (root / "cat" / "bad.png").write_bytes(b"no image")
    os.mkfifo(root / "cat" / "pipe.png")
    (root / "dog" / "loop").symlink_to(root)
    good, reasons = predicted(root, "/dev/zero", root / "cat" / "pipe.png", "a\0b.png", "x" * 5000, root / "no.png")
    assert len(good) == 12
    for name, reason in {
        f"{root}/cat/broken.png": "is not a file that can be read.",
        f"{root}/cat/self.png": "is not a file that can be read.",
        f"{root}/cat/bad.png": "is not a JPEG, PNG, WebP, BMP, GIF or TIFF image; give a whole",
        f"{root}/dog/loop": "leads back to a folder above it; remove the link.",
        "/dev/zero": "is not a regular file; give a whole",
        f"{root}/cat/pipe.png ": "is not a regular file; give a whole",
        "a\0b.png": "cannot be read (its name has a NUL character)",
        "x" * 5000: "cannot be read (File name too long)",
        f"{root}/no.png": "cannot be read (No such file or directory)",
    }.items():
        assert any(found.startswith(name) and reason in found for found in reasons), name
    assert len(reasons) == 10  # the pipe twice


def test_stdin_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def read(self, count: int) -> bytes:
            return bytes(count)

    monkeypatch.setattr(images, "MOST_BYTES", 2**20)
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": Endless()}))
    assert predicted("-") == ([], [f"stdin has more than 1 MiB; give a whole {images.FORMATS} file."])


def test_bad_images_are_skipped_if_asked_for(tmp_path: Path) -> None:
    root = classes(tmp_path / "pets")
    bad = [root / "cat" / "2.png", root / "dog" / "0.png"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-40])
    (root / "dog" / "x.png").symlink_to("nowhere")
    for _ in range(2):  # the second time from the cache
        data, said = load(root, bad_images="skip")
        assert sum(data.info.sizes.values()) == 10
        assert sorted(name for split in data.splits.values() for name in split.names) == [
            *(f"cat/{i}.png" for i in (0, 1, 3, 4, 5)),
            *(f"dog/{i}.png" for i in (1, 2, 3, 4, 5)),
        ]
        assert "skipped 3 of 13 files, which are no whole images" in said
        assert all(str(path) in said for path in (*bad, root / "dog" / "x.png"))
    (root / "dog" / "x.png").unlink()
    with pytest.raises(ValueError, match=r"cat/2\.png is damaged.*dog/0\.png is damaged"):
        load(root)
    for path in bad:
        path.unlink()
    assert load(root)[0].info == data.info


def test_classes_are_in_natural_order(tmp_path: Path) -> None:
    names = [str(number) for number in range(12)]
    data, _ = load(classes(tmp_path / "digits", tuple(names), 3))
    assert list(data.info.classes) == names
    assert sorted(["b10", "b9", "a", "10", "9", "b", "9a"], key=natural_key) == ["9", "9a", "10", "a", "b", "b9", "b10"]


def test_a_run_keeps_the_order_it_was_trained_in(tmp_path: Path) -> None:
    root = classes(tmp_path / "digits", tuple(map(str, range(12))), 5)
    new, old_order = load(root)[0], tuple(sorted(map(str, range(12))))
    old = load_dataset(DataConfig(dataset=f"folder:{root}"), classes=old_order)
    assert old.info.classes == old_order
    for split in old.splits.values():
        assert [name.partition("/")[0] for name in split.names] == [old_order[i] for i in split.labels.tolist()]
        assert split.labels.tolist() == sorted(split.labels.tolist())
    assert old.info.fingerprint != new.info.fingerprint
    # Made by the version that sorted names as text, for the same pictures.
    assert load_dataset(DataConfig(dataset=f"folder:{root}"), classes=("other",)).info == new.info


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_formats_are_known_by_their_first_bytes(form: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, form)
    assert format_of(buffer.getvalue()[:16]) == form
    assert format_of(b"<svg xmlns=") is None


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_large_pictures_are_scaled_without_a_word(tmp_path: Path, form: str) -> None:
    """Warnings are errors here."""
    path = tmp_path / "map"
    picture_ = Image.linear_gradient("L").resize((9600, 9500), Image.Resampling.BILINEAR)
    picture_.save(path, form)
    pixels = prepared(path, 16, 3)
    assert pixels.shape == (3, 16, 16)
    expected = np.asarray(picture_.resize((16, 16), Image.Resampling.BICUBIC, box=(50, 0, 9550, 9500)))
    assert np.abs(pixels - expected.astype(int)).max() <= 2


def test_links_to_the_same_folder_are_no_loop(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "b").symlink_to("a")
    assert find_images(tmp_path).names == ("a/0.png", "b/0.png")


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.new("F", (8, 8), 0.5).save(tmp_path / "x.tif")
    (reason,) = predicted(tmp_path / "x.tif")[1]
    assert "has pixels of floating-point numbers, whose range is unknown" in reason
