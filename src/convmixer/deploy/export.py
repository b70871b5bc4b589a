"""A run as a model file: written, checked in the runtime that it is for, and only then given its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from convmixer.deploy.check import CheckImages, Comparison, check_images, compare, require_equal
from convmixer.deploy.formats import FORMATS, Format
from convmixer.deploy.source import Source
from convmixer.errors import InputError, nearest
from convmixer.files import sync, temporary_folder
from convmixer.inference.model_file import FilePredictor, ModelInfo, open_model_file
from convmixer.manifest import holds_records
from convmixer.runs import RunDir

T = TypeVar("T")


@dataclass(frozen=True)
class Export:
    """A file that was written and found to answer as the run does."""

    file: Path
    format: str
    bytes: int
    """Of all files that belong to it."""
    runtime: str
    """In which it was checked."""
    info: ModelInfo
    check: Comparison

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "file": str(self.file),
            "format": self.format,
            "bytes": self.bytes,
            "runtime": self.runtime,
            "opset": self.info.opset,
            "check": self.check.to_dict(),
        }


def export_run(
    path: str | Path,
    kind: str = "onnx",
    out: str | Path | None = None,
    *,
    images: CheckImages | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Export:
    """Exports the selected weights of a run, with normalisation and softmax in the graph.

    Args:
        path: the run directory.
        kind: the format, a name in :data:`convmixer.deploy.formats.FORMATS`.
        out: the file; by default one in the run directory, named after it.
        images: to check on; by default the run's test images.
        progress: called with the number of images checked.

    Raises:
        InputError: no finished run, an unknown format or one whose packages are not installed, a place that cannot be
            written to, or a network that the format cannot express.
        RuntimeError: the file does not answer as the run does; it is not kept.
    """
    if kind not in FORMATS:
        raise InputError(f"`format`: {kind!r} is unknown; {nearest(kind, FORMATS)}")
    run, format_ = RunDir.existing(path), FORMATS[kind]
    file = _place(run, format_, out)
    source = Source.of_run(run)
    images = check_images(run) if images is None else images

    def checked(written: FilePredictor) -> tuple[ModelInfo, str, Comparison]:
        found = compare(source.predictor(), written, images, exact=source.exact_logits, progress=progress)
        require_equal(found, written)
        return written.info, written.runtime, found

    size, (info, runtime, found) = write_checked(file, format_, lambda where: format_.write(source, where), checked)
    return Export(file, kind, size, runtime, info, found)


def write_checked(
    file: Path, kind: Format, write: Callable[[Path], None], check: Callable[[FilePredictor], T]
) -> tuple[int, T]:
    """Writes a model file; it gets its name, and replaces what had it, only if ``check`` raises nothing.

    Args:
        file: what it is to be called.
        kind: its format.
        write: writes it, and what lies beside it, to a place in an empty folder.
        check: what has to hold of it.

    Returns:
        The size in bytes, with what lies beside it, and what ``check`` returned.
    """
    beside = [file.with_suffix(suffix) for suffix in kind.beside]
    with temporary_folder(file.parent, file.name) as folder:
        written = folder / file.name
        write(written)
        result = check(open_model_file(written, trusted=True))
        size = sum(part.stat().st_size for part in folder.iterdir())
        if beside:
            file.unlink(missing_ok=True)  # or a kill between the two would leave an old and a new part together
        for target in (*beside, file):
            part = written.with_name(target.name)
            sync(part)
            part.replace(target)
    sync(file.parent)
    return size, result


def _place(run: RunDir, kind: Format, out: str | Path | None) -> Path:
    """Where to write. Raises InputError if nothing can be written there, or a record of a run is there."""
    file = run.path / f"{run.path.resolve().name}{kind.name}{kind.suffix}" if out is None else Path(out)
    if file.suffix != kind.suffix:
        raise InputError(f"--out: {file} does not end in {kind.suffix}, as files of this format do.")
    if file.is_dir() or not file.parent.is_dir():
        what = "is a folder" if file.is_dir() else f"lies in {file.parent}, which is no folder"
        raise InputError(f"--out: {file} {what}; name a file in a folder that exists.")
    if (file.parent / "config.json").exists() and holds_records(file.parent, [file.name]):
        raise InputError(f"--out: {file} is where the run keeps its own weights; choose another name.")
    return file
