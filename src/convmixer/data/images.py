"""Image files to uint8 arrays: one way for data sets and for single images to classify. Pillow and NumPy only."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from convmixer.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
"""Lower-case file name suffixes of the formats that are read; a file's content decides, its suffix does not matter."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_MOST_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB: more is taken for a decompression bomb, as Pillow does
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises at damaged files; broken metadata are a mere warning, but some users make errors of warnings.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, UserWarning)

T = TypeVar("T")


class BadImage(Exception):  # noqa: N818 - it is the image that is bad
    """Why a file cannot be used as an image: half a sentence that goes on after the file's name."""


def open_image(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Reads and decodes an image file completely.

    Args:
        source: path of a JPEG, PNG, WebP or BMP file, or its bytes.
        name: what to call it in messages; by default its path.

    Returns:
        The first frame, in the file's own mode and orientation; :func:`prepare_image` makes it upright RGB.

    Raises:
        InputError: missing, unreadable, empty, damaged, too large, or not an image.
    """
    name = name or (str(source) if isinstance(source, (str, Path)) else "the image")
    try:
        return decode(source if isinstance(source, bytes) else read(Path(source)))
    except BadImage as problem:
        raise InputError(f"{name} {problem}; give a whole JPEG, PNG, WebP or BMP file.") from None


def prepare_image(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Turns an image of any size and mode into what a model takes.

    It is turned upright as its EXIF data say, put on white where it is transparent, scaled (bicubic, antialiased) until
    its shorter side is ``size``, and cut to the square in its centre. An image of that size keeps its pixels.

    Returns:
        (channels, size, size) uint8, contiguous; ``channels`` is 3 (RGB) or 1 (grey).
    """
    if channels not in (1, 3):
        raise ValueError(f"channels has to be 1 or 3, not {channels}")
    turn = _UPRIGHT.get(_orientation(image))
    image = _to_rgb(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.size != (size, size):
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        # Resizing just the centre equals resizing all and cutting, without the huge middle step of a narrow image.
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    if channels == 1:
        return np.array(image.convert("L"))[None]
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def decode_images(
    sources: Sequence[Path | bytes],
    names: Sequence[str | Path],
    size: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Decodes and prepares many images at once, in threads (Pillow works outside the interpreter's lock).

    Args:
        sources: paths or file contents.
        names: what to call each in messages.
        size: side of the result in pixels.
        on_progress: called with the number of images done.

    Returns:
        (N, 3, size, size) uint8 in the order of ``sources``.

    Raises:
        InputError: naming the first three images that cannot be used, and the number of them.
    """
    try:
        result = np.empty((len(sources), 3, size, size), dtype=np.uint8)
    except MemoryError:
        need = len(sources) * 3 * size**2 / 2**30
        raise InputError(f"--image-size: {size} needs {need:.0f} GiB of memory for all images; choose less.") from None

    def work(index: int) -> str | None:
        source = sources[index]
        try:
            result[index] = prepare_image(decode(source if isinstance(source, bytes) else read(source)), size, 3)
        except BadImage as problem:
            return f"{names[index]} {problem}"
        return None

    bad = [problem for problem in in_threads(work, len(sources), on_progress) if problem]
    if bad:
        more = f" (and {len(bad) - 3} more of {len(sources)} files)" if len(bad) > 3 else ""
        raise InputError(f"{'; '.join(bad[:3])}{more}: replace or remove {'it' if len(bad) == 1 else 'them'}.")
    return result


def in_threads(
    work: Callable[[int], T], count: int, on_progress: Callable[[int], None] = lambda done: None, chunk: int = 64
) -> list[T]:
    """``[work(0), work(1), …]``, computed in a thread for each available core."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    results: list[T] = []
    with ThreadPoolExecutor(min(cores, 32)) as pool:
        starts = range(0, count, chunk)
        for done in pool.map(lambda start: [work(i) for i in range(start, min(start + chunk, count))], starts):
            results += done
            on_progress(len(results))
    return results


def read(path: Path) -> bytes:
    """A file's content; raises BadImage where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror or error})") from None


def decode(raw: bytes) -> Image.Image:
    """Decodes a file's content; raises BadImage where it is not a whole image of a known format."""
    if not raw:
        raise BadImage("is empty (0 bytes)")
    image = header(raw)
    try:
        image.load()
    except _DAMAGE as error:
        raise BadImage(f"is damaged ({_detail(error)})") from None
    return image


def header(raw: bytes | BinaryIO) -> Image.Image:
    """Reads an image's format, size and mode, not yet its pixels; raises BadImage like :func:`decode`."""
    try:
        image = Image.open(io.BytesIO(raw) if isinstance(raw, bytes) else raw, formats=_FORMATS)
    except UnidentifiedImageError:
        raise BadImage("is not a JPEG, PNG, WebP or BMP image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(f"has more than {_MOST_PIXELS // 10**6} million pixels") from None
    except _DAMAGE as error:
        raise BadImage(f"is damaged ({_detail(error)})") from None
    if image.width * image.height > _MOST_PIXELS:
        raise BadImage(f"has more than {_MOST_PIXELS // 10**6} million pixels")
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels of an image that was turned upright as its EXIF data say."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _detail(error: BaseException) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except (*_DAMAGE, TypeError):  # broken metadata do not spoil the pixels
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip instead of scaling
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
