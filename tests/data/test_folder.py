"""Folders of real image files: layouts, modes, damage, and the cache of decoded images."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from rich.console import Console

from convmixer.config import DataConfig
from convmixer.data import Dataset, images, load_dataset
from convmixer.data.images import open_image, prepare_image
from convmixer.errors import InputError
from convmixer.files import cache_dir

CLASSES = ("cat", "dog")


def pixels(height: int = 8, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def png_file(size: tuple[int, int], colour: int, data: bytes) -> bytes:
    """A PNG file of 8 bits a channel, with any colour type and any compressed data."""
    header = struct.pack(">IIBBBBB", *size, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk)) + kind + chunk + struct.pack(">I", zlib.crc32(kind + chunk))
        for kind, chunk in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def _png_without_palette() -> bytes:
    return png_file((8, 8), 3, zlib.compress(bytes(9 * 8)))


def fill(root: Path, parts: tuple[str, ...] = ("",), count: int = 10, size: int = 8) -> Path:
    """PNG files root/part/class/NN.png, all different."""
    seed = 0
    for part in parts:
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                seed += 1
                (root / part / name / f"{index:02}.png").write_bytes(png(pixels(size, size, seed)))
    return root


def replace_by(root: Path, make: Callable[[Path], None]) -> None:
    shutil.rmtree(root)
    make(root)


def load(root: Path, console: Console | None = None, **options: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=f"folder:{root}", **options), console=console)


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CONVMIXER_CACHE", str(place))
    return place


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of images whenever some are decoded."""
    counts: list[int] = []
    original = images.decode_images

    def counting(sources, *args):
        counts.append(len(sources))
        return original(sources, *args)

    monkeypatch.setattr("convmixer.data.decoded.decode_images", counting)
    return counts


class TestLayouts:
    def test_train_and_test(self, tmp_path: Path):
        root = fill(tmp_path / "pets", ("train", "test"))
        loaded = load(root, val_fraction=0.2)
        info = loaded.info
        assert (info.name, info.classes, info.channels, info.image_size, info.mirror) == (
            "folder:pets",
            CLASSES,
            3,
            8,
            True,
        )
        assert info.sizes == {"train": 16, "val": 4, "test": 20}
        for split in loaded.splits.values():
            assert split.images.dtype == torch.uint8
            assert split.images.is_contiguous()
            assert split.labels.dtype == torch.int64
        assert loaded.splits["test"].labels.tolist() == [0] * 10 + [1] * 10
        expected = np.asarray(Image.open(root / "test" / "dog" / "03.png")).transpose(2, 0, 1)
        assert (loaded.splits["test"].images[13].numpy() == expected).all()

    @pytest.mark.parametrize("name", ["val", "validation", "valid", "dev", "Valid"])
    def test_own_validation_part(self, tmp_path: Path, name: str):
        root = fill(tmp_path, ("train", "test", name))
        assert load(root).info.sizes == {"train": 20, "val": 20, "test": 20}
        assert load_dataset(DataConfig(dataset=f"folder:{root}"), protocol="original").info.sizes == {
            "train": 20,
            "test": 20,
        }
        shutil.rmtree(root / "test")
        assert load(root).info.sizes == {"train": 16, "val": 20, "test": 4}

    def test_one_folder_is_split(self, tmp_path: Path):
        fill(tmp_path)
        loaded = load(tmp_path, test_fraction=0.3)
        assert loaded.info.sizes == {"train": 12, "val": 2, "test": 6}
        assert loaded.splits["test"].labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert load(tmp_path, test_fraction=0.3, split_seed=1).info.fingerprint != loaded.info.fingerprint

    def test_a_class_of_trains(self, tmp_path: Path):
        fill(tmp_path)
        (tmp_path / "dog").rename(tmp_path / "train")
        assert load(tmp_path).info.classes == ("cat", "train")

    def test_what_is_not_data_is_ignored(self, tmp_path: Path):
        fill(tmp_path, ("train", "test"))
        before = load(tmp_path).info
        for place in (tmp_path, tmp_path / "train", tmp_path / "train" / "cat"):
            for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._00.png"):
                (place / name).write_bytes(b"x")
            (place / ".ipynb_checkpoints").mkdir()
        (tmp_path / "README.txt").write_text("about")
        (tmp_path / "extra").mkdir()
        assert load(tmp_path).info == before

    def test_the_name_of_the_folder_one_is_in(self, tmp_path: Path, monkeypatch):
        monkeypatch.chdir(fill(tmp_path / "pets"))
        assert load(Path()).info.name == "folder:pets"
        assert load(Path("../pets")).info.name == "folder:pets"
        monkeypatch.setenv("HOME", str(tmp_path))
        assert load(Path("~/pets")).info.name == "folder:pets"

    @pytest.mark.parametrize(
        ("arrange", "expected"),
        [
            (lambda root: shutil.rmtree(root), "there is no folder {root}"),
            (lambda root: replace_by(root, Path.touch), "{root} is a file"),
            (lambda root: replace_by(root, Path.mkdir), "{root} has no class folders"),
            (lambda root: shutil.rmtree(root / "train"), "{root} has test, but no train/<class> folders"),
            (lambda root: shutil.rmtree(root / "train" / "dog"), "{root}/train has only one class, 'cat'"),
            (lambda root: (root / "train" / "eel").mkdir(), "{root}/train/eel: the class 'eel' has no images"),
            (lambda root: (root / "test" / "eel").mkdir(), "{root}/test/eel: the training images have no class 'eel'"),
            (lambda root: fill(root, ("val", "validation")), "{root} has both val and validation"),
            (lambda root: (root / "train" / "a.JPG").write_bytes(b""), "{root}/train/a.JPG is in no class folder"),
            (lambda root: (root / "test" / "a.png").write_bytes(b""), "{root}/test/a.png is in no class folder"),
            (lambda root: fill(root, ("Test",)), "{root} has both Test and test; keep one of them"),
            (
                lambda root: (root / "train" / "cat" / "loop").symlink_to(root / "train"),
                "{root}/train/cat/loop/cat leads back to a folder above it; remove the link.",
            ),
            (
                lambda root: (root / "train" / "cat" / "z.png").symlink_to("z.png"),
                "{root}/train/cat/z.png is not a file",
            ),
            (lambda root: (root / "train" / "h\udcfcnd").mkdir(), "b'h\\xfcnd' is not UTF-8; rename it"),
            (
                lambda root: [file.rename(file.with_suffix(".csv")) for file in (root / "train" / "cat").iterdir()],
                "{root}/train/cat: the class 'cat' has no images (2 .csv are no images that can be read)",
            ),
            (
                lambda root: (root / "train" / "cat" / "x.png").symlink_to("nowhere"),
                "{root}/train/cat/x.png is not a file",
            ),
            (lambda root: os.mkfifo(root / "train" / "cat" / "x.png"), "{root}/train/cat/x.png is not a file"),
        ],
    )
    def test_other_layouts_are_refused(self, tmp_path: Path, arrange, expected):
        root = fill(tmp_path / "pets", ("train", "test"), count=2)
        arrange(root)
        assert expected.format(root=root) in refused(root)

    def test_images_without_class_folders(self, tmp_path: Path):
        (tmp_path / "a.png").write_bytes(png(pixels()))
        assert f"{tmp_path / 'a.png'} is in no class folder" in refused(tmp_path)

    def test_too_few_images_to_split(self, tmp_path: Path):
        fill(tmp_path, count=3)
        for index in (1, 2):
            (tmp_path / "dog" / f"0{index}.png").unlink()
        assert "class 'dog' has only one image" in refused(tmp_path)


class TestBadFiles:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return fill(tmp_path / "pets", ("train", "test"), count=4)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "is empty (0 bytes)"),
            (b"hello", "is not a JPEG, PNG, WebP, BMP, GIF or TIFF image"),
            (png(pixels(64, 64))[:-3000], "is damaged (image file is truncated"),
            (b"GIF89a" + bytes(40), "is damaged (image not found in GIF frame)"),
            (_png_without_palette(), "is damaged (AssertionError)"),
        ],
        ids=["empty", "text", "truncated", "gif", "no palette"],
    )
    def test_bad_file_is_named(self, root: Path, cache: Path, content: bytes, reason: str):
        path = root / "train" / "dog" / "02.png"
        path.write_bytes(content)
        message = refused(root)
        assert f"{path} {reason}" in message
        assert message.endswith("replace or remove it.")
        assert list(cache.rglob("*.*")) == []  # nothing is kept of what could be read
        path.write_bytes(png(pixels()))
        load(root)

    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
    def test_truncation_is_noticed_in_every_format(self, root: Path, form: str):
        buffer = io.BytesIO()
        Image.fromarray(pixels(64, 64)).save(buffer, form)
        path = root / "test" / "cat" / "00.png"
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        assert f"{path} is damaged" in refused(root)

    def test_of_many_the_first_are_named_and_all_counted(self, root: Path):
        for path in sorted((root / "train").rglob("*.png")):
            path.write_bytes(b"")
        (root / "test" / "cat" / "01.png").write_bytes(b"x")
        message = refused(root)
        assert message.count("pets") == 3
        assert [f"cat/0{i}.png is empty" in message for i in range(4)] == [True, True, True, False]
        assert "and 6 more of 16 files" in message
        assert message.endswith("replace or remove them.")

    @pytest.mark.parametrize("side", [17_000, 60_000])
    def test_decompression_bomb(self, root: Path, side: int):
        path = root / "train" / "cat" / "bomb.png"
        path.write_bytes(png_file((side, side), 2, zlib.compress(b"")))
        assert f"{path} has more than 268 million pixels" in refused(root)

    def test_unreadable(self):
        with tempfile.TemporaryDirectory() as place, _ordinary_user(Path(place)):
            root = fill(Path(place) / "pets", ("train", "test"), count=2)
            os.environ["CONVMIXER_CACHE"] = place  # the fixture puts it back
            (root / "train" / "cat" / "00.png").chmod(0)
            assert f"{root}/train/cat/00.png cannot be read (Permission denied)" in refused(root)
            (root / "train" / "cat").chmod(0)
            assert f"{root}/train/cat cannot be read (Permission denied)" in refused(root)
            (root / "train" / "cat").chmod(0o755)

    def test_too_much_memory(self, root: Path):
        assert "image_size: 9000000 needs" in refused(root, image_size=9_000_000)

    def test_change_while_reading(self, root: Path, monkeypatch):
        original = images.decode_images

        def slow(*args):
            result = original(*args)
            (root / "train" / "cat" / "00.png").write_bytes(png(pixels(seed=99)))
            return result

        monkeypatch.setattr("convmixer.data.decoded.decode_images", slow)
        assert "files changed while they were read" in refused(root)


class _ordinary_user:  # noqa: N801
    """Permissions do not hold for root: act as nobody while the block lasts."""

    def __init__(self, place: Path) -> None:
        self.place, self.root = place, hasattr(os, "geteuid") and os.geteuid() == 0

    def __enter__(self) -> None:
        if self.root:
            os.chown(self.place, 65534, 65534)
            os.seteuid(65534)

    def __exit__(self, *_: object) -> None:
        if self.root:
            os.seteuid(0)


class TestImages:
    def test_own_size_is_kept(self):
        array = pixels(12, 12)
        assert (prepare_image(Image.fromarray(array), 12, 3) == array.transpose(2, 0, 1)).all()
        result = prepare_image(Image.fromarray(array), 12, 3)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous

    @pytest.mark.parametrize(("height", "width"), [(40, 20), (20, 40), (1, 300), (300, 1), (7, 9), (5, 5)])
    def test_centre_square(self, height: int, width: int):
        image = Image.fromarray(pixels(height, width))
        side = min(height, width)
        result = prepare_image(image, 10, 3)
        assert result.shape == (3, 10, 10)
        if (height * 10) % side == (width * 10) % side == 0:  # then whole pixels remain to be cut off
            size = (width * 10 // side, height * 10 // side)
            left, top = (size[0] - 10) // 2, (size[1] - 10) // 2
            centre = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 10, top + 10))
            difference = result.astype(int) - np.asarray(centre).transpose(2, 0, 1)
            assert np.abs(difference).max() <= 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, orientation: int):
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = io.BytesIO()
        Image.fromarray(pixels(24, 16)).save(buffer, "JPEG", exif=exif, quality=95)
        expected = prepare_image(ImageOps.exif_transpose(Image.open(buffer)), 8, 3)
        assert (prepare_image(open_image(buffer.getvalue()), 8, 3) == expected).all()

    def test_broken_exif_does_not_matter(self):
        buffer = io.BytesIO()
        Image.fromarray(pixels(16, 16)).save(buffer, "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01")
        assert prepare_image(open_image(buffer.getvalue()), 16, 3).shape == (3, 16, 16)

    @pytest.mark.parametrize(
        ("form", "mode"),
        [
            *[("JPEG", mode) for mode in ("1", "L", "RGB", "CMYK")],
            *[("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
            *[("WEBP", mode) for mode in ("RGB", "RGBA")],
            *[("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")],
            *[("GIF", mode) for mode in ("L", "P", "RGB")],
            *[("TIFF", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")],
        ],
    )
    def test_every_mode(self, form: str, mode: str, tmp_path: Path):
        image = Image.new("RGB", (16, 16), "red").convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        image.save(tmp_path / "image", form)
        result = prepare_image(open_image(tmp_path / "image"), 8, 3)
        if mode == "1":  # a dithered 30 % of white
            assert 40 < result.mean() < 120
        else:
            expected = (76, 76, 76) if mode in ("L", "LA", "I;16") else (255, 0, 0)
            assert np.abs(result.astype(int) - np.array(expected)[:, None, None]).max() <= 3

    def test_transparent_parts_become_white(self):
        clear, half = Image.new("RGBA", (4, 4), (255, 0, 0, 0)), Image.new("RGBA", (4, 4), (0, 0, 0, 128))
        assert (prepare_image(clear, 4, 3) == 255).all()
        assert (prepare_image(half, 4, 3) == 127).all()
        palette = Image.new("P", (4, 4))
        palette.putpalette([255, 0, 0])
        palette.info["transparency"] = b"\x00"
        assert (prepare_image(palette, 4, 3) == 255).all()
        assert (prepare_image(clear.convert("LA"), 4, 1) == 255).all()

    def test_grey(self):
        levels = np.arange(64, dtype=np.uint8).reshape(8, 8)
        result = prepare_image(Image.fromarray(levels), 8, 1)
        assert result.shape == (1, 8, 8)
        assert (result[0] == levels).all()
        assert prepare_image(Image.fromarray(pixels()), 4, 1).shape == (1, 4, 4)
        with pytest.raises(ValueError, match="channels"):
            prepare_image(Image.fromarray(levels), 8, 2)

    def test_sixteen_bits_are_scaled_not_clipped(self):
        levels = np.array([[0, 257, 32896, 65535]] * 4, dtype=np.uint16)
        assert prepare_image(Image.fromarray(levels), 4, 1)[0, 0].tolist() == [0, 1, 128, 255]

    def test_errors_of_a_single_image(self, tmp_path: Path):
        with pytest.raises(InputError, match=r"a\.png cannot be read \(No such file or directory\); give a whole"):
            open_image(tmp_path / "a.png")
        with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
            open_image(str(tmp_path))
        with pytest.raises(InputError, match=r"^the image is empty"):
            open_image(b"")
        with pytest.raises(InputError, match=r"^stdin is not a JPEG"):
            open_image(b"hello", name="stdin")


class TestSize:
    @pytest.fixture
    def output(self) -> Iterator[tuple[Console, io.StringIO]]:
        stream = io.StringIO()
        return Console(file=stream, width=300), stream  # type: ignore[return-value]

    def test_common_size_is_taken(self, tmp_path: Path, output):
        fill(tmp_path, size=13)
        assert load(tmp_path, output[0]).info.image_size == 13
        assert output[1].getvalue() == ""

    @pytest.mark.parametrize("shape", [(9, 8), (9, 9), (300, 300)], ids=["not square", "another", "large"])
    def test_else_one_is_chosen_and_said_to_be(self, tmp_path: Path, output, shape: tuple[int, int]):
        fill(tmp_path, count=3)
        for path in tmp_path.rglob("*.png") if shape == (300, 300) else [tmp_path / "cat" / "01.png"]:
            path.write_bytes(png(pixels(*shape)))
        for again in (1, 2):  # the second time from the cache
            assert load(tmp_path, output[0]).info.image_size == 64
            lines = [line for line in output[1].getvalue().splitlines() if "64×64" in line]
            assert len(lines) == again
            assert "--image-size" in lines[-1]

    def test_asked_for(self, tmp_path: Path, output):
        fill(tmp_path)
        assert load(tmp_path, output[0], image_size=20).info.image_size == 20
        assert load(tmp_path, output[0]).info.image_size == 8
        assert output[1].getvalue() == ""

    def test_progress_on_terminals_only(self, tmp_path: Path):
        fill(tmp_path)
        stream = io.StringIO()
        load(tmp_path, Console(file=stream, force_terminal=True, width=200))
        assert "decoding" in stream.getvalue()


class TestCache:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return fill(tmp_path / "pets", ("train", "test"), count=3)

    def test_second_load_reads_no_image(self, root: Path, decoded: list[int], monkeypatch):
        first = load(root)
        monkeypatch.setattr("convmixer.data.decoded.read", lambda path: pytest.fail(f"read {path}"))
        second = load(root)
        assert first.info == second.info
        for name, split in first.splits.items():
            assert torch.equal(split.images, second.splits[name].images)
        assert decoded == [12]

    def test_copied_folder_is_known_by_its_content(self, root: Path, tmp_path: Path, decoded: list[int]):
        info = load(root).info
        copied = tmp_path / "elsewhere" / "pets"
        shutil.copytree(root, copied, copy_function=shutil.copy)
        for path in copied.rglob("*.png"):
            os.utime(path, (1, 1))
        assert load(copied).info == info
        assert decoded == [12]

    @pytest.mark.parametrize(
        "change", ["content", "same size and time", "renamed", "moved", "added", "removed", "touched"]
    )
    def test_changes_are_noticed(self, root: Path, decoded: list[int], change: str):
        before = load(root).info
        path = root / "train" / "cat" / "00.png"
        stat = path.stat()
        if change in ("content", "same size and time"):
            path.write_bytes(_other_bmp(path, 1))
            load(root)
            stat = path.stat()
            decoded.clear()
            path.write_bytes(_other_bmp(path, 2))
            assert path.stat().st_size == stat.st_size
            if change != "content":
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            assert decoded == []
        elif change == "renamed":
            path.rename(path.with_name("zz.png"))
        elif change == "moved":
            path.rename(root / "train" / "dog" / "99.png")
        elif change == "added":
            shutil.copy(path, path.with_name("copy.png"))
        elif change == "removed":
            path.unlink()
        else:
            os.utime(path)
        after = load(root).info
        assert (after.fingerprint == before.fingerprint) == (change == "touched")
        assert len(decoded) == (1 if change in ("content", "same size and time", "touched") else 2)

    def test_sizes_are_kept_apart(self, root: Path, decoded: list[int]):
        for size in (None, 16, 8, None, 16, 8):
            load(root, image_size=size)
        assert len(decoded) == 2  # no size asked for and the images' own size are the same

    @pytest.mark.parametrize("damage", ["flipped", "truncated", "longer", "empty", "removed", "pipe"])
    @pytest.mark.parametrize("what", ["images", "folders"])
    def test_damage_is_noticed_and_repaired(self, root: Path, cache: Path, decoded: list[int], what: str, damage: str):
        info = load(root).info
        (path,) = (cache / what).iterdir()
        content = path.read_bytes()
        middle = len(content) // 2
        if damage in ("removed", "pipe"):
            path.unlink()
            if damage == "pipe":
                os.mkfifo(path)
        else:
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            path.write_bytes(
                {"flipped": flipped, "truncated": content[:middle], "longer": content + b"{", "empty": b""}[damage]
            )
        assert load(root).info == info
        assert len(decoded) == (2 if what == "images" else 1)
        assert path.read_bytes() == content
        load(root)
        assert len(decoded) == (2 if what == "images" else 1)

    def test_another_folders_entry_is_not_believed(self, root: Path, cache: Path, tmp_path: Path, decoded: list[int]):
        right = load(root).splits["test"].images.clone()
        shutil.copytree(root, tmp_path / "other")
        for picture in (tmp_path / "other").rglob("*.png"):
            with Image.open(picture) as image:
                inverted = ImageOps.invert(image.convert("RGB"))
            inverted.save(picture)
        (own,) = (cache / "images").iterdir()
        load(tmp_path / "other")
        (other,) = set((cache / "images").iterdir()) - {own}
        assert other.stat().st_size == own.stat().st_size
        shutil.copy(other, own)
        assert torch.equal(load(root).splits["test"].images, right)
        assert len(decoded) == 3

    def test_pixels_that_nothing_refers_to_are_deleted(self, root: Path, cache: Path, tmp_path: Path):
        load(root)
        shutil.copytree(root, tmp_path / "copy")
        load(tmp_path / "copy")
        (root / "train" / "cat" / "00.png").unlink()
        load(root)
        assert len(list((cache / "images").iterdir())) == 2  # the copy still needs the old ones
        (tmp_path / "copy" / "train" / "cat" / "00.png").unlink()
        load(tmp_path / "copy")
        assert len(list((cache / "images").iterdir())) == 1

    def test_remains_of_killed_processes_are_deleted(self, root: Path, cache: Path):
        (cache / "images").mkdir()
        old, new = cache / "images" / ".a.1.tmp", cache / "images" / ".b.2.tmp"
        old.write_bytes(b"x")
        new.write_bytes(b"x")
        os.utime(old, (time.time() - 90_000,) * 2)
        load(root)
        assert (old.exists(), new.exists()) == (False, True)

    def test_a_cache_that_cannot_be_written_only_costs_time(
        self, root: Path, cache: Path, decoded: list[int], monkeypatch
    ):
        (cache / "file").write_text("")
        monkeypatch.setenv("CONVMIXER_CACHE", str(cache / "file"))
        stream = io.StringIO()
        for _ in range(2):
            load(root, Console(file=stream, width=300))
        assert len(decoded) == 2
        assert "The decoded images cannot be kept" in stream.getvalue()

    def test_the_users_own_cache_folder_by_default(self, monkeypatch, tmp_path: Path):
        monkeypatch.delenv("CONVMIXER_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert "convmixer-lab" in str(cache_dir())

    def test_several_at_once(self, root: Path):
        results: list[Dataset] = []
        threads = [threading.Thread(target=lambda: results.append(load(root))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({result.info.fingerprint for result in results}) == 1
        assert len(results) == 4


def _other_bmp(path: Path, seed: int) -> bytes:
    """A file whose size does not depend on its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed=1000 + seed)).save(buffer, "BMP")
    return buffer.getvalue()


def test_formats_go_by_content_not_by_suffix(tmp_path: Path):
    fill(tmp_path, count=3)
    for path in tmp_path.rglob("*.png"):
        path.rename(path.with_suffix(".jpeg"))
    load(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(
    "CONVMIXER_TEST_IMAGES" not in os.environ, reason="needs CONVMIXER_TEST_IMAGES, a folder with train/ and test/"
)
def test_sixty_thousand_images_in_time():
    root = Path(os.environ["CONVMIXER_TEST_IMAGES"])
    started = time.monotonic()
    first = load(root)
    middle = time.monotonic()
    second = load(root)
    ended = time.monotonic()
    assert first.info == second.info
    assert middle - started < 60
    assert ended - middle < (middle - started) / 8
