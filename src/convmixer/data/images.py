"""Image files to uint8 arrays: one way for data sets and for single images to classify. Pillow and NumPy only."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

# Importing its plugin registers a format.
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from convmixer.data.image_files import format_of
from convmixer.errors import InputError

FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"

_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
_MOST_PIXELS = 2**28  # a gigabyte as RGB
_HUGE = 89_478_485  # from here on scaled in steps; the pixels of smaller images are what they always were
_LARGE = 2**25  # from here on decoded one at a time
_ONE_LARGE = threading.Lock()
MOST_BYTES = 2**30
"""Of an image file."""
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

T = TypeVar("T")


class BadImage(Exception):  # noqa: N818 - it is the image that is bad
    """Why a file cannot be used as an image: half a sentence that goes on after the file's name."""


def open_image(source: str | Path | bytes, name: str | None = None) -> Image.Image:
    """Reads and decodes an image file completely.

    Args:
        source: path of a JPEG, PNG, WebP, BMP, GIF or TIFF file, or its bytes.
        name: what to call it in messages; by default its path.

    Returns:
        The first frame, in the file's own mode and orientation; :func:`prepare_image` makes it upright RGB.

    Raises:
        InputError: missing, unreadable, empty, damaged, too large, or not an image.
    """
    name = name or (str(source) if isinstance(source, (str, Path)) else "the image")
    try:
        image = header(source if isinstance(source, bytes) else read(source))
        _loaded(image)
    except BadImage as problem:
        raise InputError(refusal(name, problem)) from None
    return image


def refusal(name: str, problem: BadImage) -> str:
    """The sentence about a single image that cannot be used."""
    return f"{name} {problem}; give a whole {FORMATS} file."


def prepared(source: str | Path | bytes, size: int, channels: int) -> np.ndarray:
    """Reads, decodes and prepares an image file, or its bytes, as :func:`prepare_image` says.

    Raises:
        BadImage: whatever goes wrong with this file.
    """
    image = header(source if isinstance(source, bytes) else read(source))
    pixels = image.width * image.height
    with _ONE_LARGE if pixels > _LARGE else nullcontext():
        if pixels > _HUGE:  # a JPEG is scaled while it is decoded
            image.draft(image.mode, (4 * size, 4 * size))
        _loaded(image)
        try:
            return prepare_image(image, size, channels)
        except Exception as error:
            raise _damage(error) from None


def prepare_image(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Turns an image of any size and mode into what a model takes.

    It is turned upright as its EXIF data say, put on white where it is transparent, scaled (bicubic, antialiased) until
    its shorter side is ``size``, and cut to the square in its centre. An image of that size keeps its pixels.

    Returns:
        (channels, size, size) uint8, contiguous; ``channels`` is 3 (RGB) or 1 (grey).

    Raises:
        BadImage: pixels that are floating-point numbers.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels has to be 1 or 3, not {channels}")
    turn = _UPRIGHT.get(_orientation(image))
    if image.width * image.height > _HUGE and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        image = image.reduce(max(1, min(image.size) // (8 * size)))  # before any conversion multiplies its memory
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
    bad: dict[int, str] | None = None,
) -> np.ndarray:
    """Decodes and prepares many images at once, in threads (Pillow works outside the interpreter's lock).

    Args:
        sources: paths or file contents.
        names: what to call each in messages.
        size: side of the result in pixels.
        on_progress: called with the number of images done.
        bad: receives the index of each image that cannot be used, and a half sentence with its name, instead of an
            exception; its pixels are 0.

    Returns:
        (N, 3, size, size) uint8 in the order of ``sources``.

    Raises:
        InputError: naming the first three images that cannot be used, and the number of them.
    """
    try:
        result = np.empty((len(sources), 3, size, size), dtype=np.uint8)
    except (MemoryError, ValueError):  # more than there is, more than can be counted
        need = len(sources) * 3 * size**2 / 2**30
        raise InputError(f"`image_size`: {size} needs {need:.3g} GiB of memory for all images; choose less.") from None

    def work(index: int) -> str | None:
        try:
            result[index] = prepared(sources[index], size, 3)
        except BadImage as problem:
            result[index] = 0
            return f"{names[index]} {problem}"
        return None

    found = {i: text for i, text in enumerate(in_threads(work, len(sources), on_progress)) if text}
    if bad is not None:
        bad.update(found)
    elif found:
        more = f" (and {len(found) - 3} more of {len(sources)} files)" if len(found) > 3 else ""
        first = "; ".join(list(found.values())[:3])
        raise InputError(f"{first}{more}: replace or remove {'it' if len(found) == 1 else 'them'}.")
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


def read(path: str | Path) -> bytes:
    """A regular file's content; raises BadImage where it cannot be read."""
    try:
        # Opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise BadImage("is not a regular file")
            with open(descriptor, "rb", closefd=False) as file:
                return bounded(file)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror or error})") from None
    except ValueError:
        raise BadImage("cannot be read (its name has a NUL character)") from None


def bounded(stream: BinaryIO) -> bytes:
    """All that a stream holds; raises BadImage if that is more than :data:`MOST_BYTES`."""
    content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise BadImage(f"has more than {MOST_BYTES >> 20} MiB")
    return content


def header(raw: bytes | BinaryIO) -> Image.Image:
    """Reads an image's format, size and mode, not yet its pixels.

    Raises:
        BadImage: not an image of a known format, damaged, or too large.
    """
    stream = io.BytesIO(raw) if isinstance(raw, bytes) else raw
    beginning = stream.read(16)
    stream.seek(0)
    if not beginning:
        raise BadImage("is empty (0 bytes)")
    kind = format_of(beginning)
    if kind is None:
        raise BadImage(f"is not a {FORMATS} image")
    try:
        # Not Image.open, which warns of large images whatever the caller makes of them.
        image = Image.OPEN[kind][0](stream, "")
    except Exception as error:
        raise _damage(error) from None
    if image.width * image.height > _MOST_PIXELS:
        raise BadImage(f"has more than {_MOST_PIXELS // 10**6} million pixels")
    return image


def _loaded(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # decoders raise anything at files that were made to break them
        raise _damage(error) from None


def _damage(error: Exception) -> BadImage:
    if isinstance(error, BadImage):
        return error
    if isinstance(error, MemoryError):
        return BadImage("needs more memory than there is")
    return BadImage(f"is damaged ({_detail(error)})")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels of an image that was turned upright as its EXIF data say."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _detail(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken metadata do not spoil the pixels
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage("has pixels of floating-point numbers, whose range is unknown")
    if image.mode.startswith("I"):  # 16 bits of grey, which convert() would clip instead of scaling
        levels = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
