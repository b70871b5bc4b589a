"""CIFAR-10 and CIFAR-100: found on disk or downloaded, and never used unless they are the published images.

An archive, and each file of the Python form, is compared with its published MD5 before anything in it is read. Whatever
the form and the source, the result then has to pass :func:`check_content`.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from convmixer.config import DataConfig
from convmixer.data.cifar_specs import SPECS, CifarSpec, Form
from convmixer.data.collection import Collection, Part, channel_sums
from convmixer.data.download import Remote, Unavailable, fetch, reachable
from convmixer.data.images import decode_images
from convmixer.errors import InputError
from convmixer.files import open_regular
from convmixer.runtime.progress import progress

if TYPE_CHECKING:
    from rich.console import Console

_SIDE = 32
_PIXELS = 3 * _SIDE**2


def load(config: DataConfig, console: Console | None) -> Collection:
    """Loads a set from ``config.data_dir`` or a folder in it, else downloads it there.

    An archive of either form is preferred to an unpacked one. With ``config.source`` "hub" and nothing on disk, the
    images come from Hugging Face instead, and stay in its own cache.

    Raises:
        InputError: nothing there and no way to get it, or what is there is not what was published.
    """
    spec = SPECS[config.dataset]
    place = _find(spec, Path(config.data_dir))
    if place is None and config.source == "hub":
        where = f"https://huggingface.co/datasets/{spec.hub}"
        parts, classes = _from_hub(spec, console)
    else:
        form, path = place or _fetch(spec, config, console)
        where = str(path)
        files = _read_archive(form, path) if path.is_file() else _read_folder(form, path)
        parts, classes = (_parse_python if form is spec.python else _parse_binary)(spec, files, path)
    collection = Collection(config.dataset, classes, parts, mirror=True)
    check_content(spec, collection, where)
    return collection


def check_content(spec: CifarSpec, collection: Collection, where: str) -> None:
    """Refuses images that are not the published ones.

    The names of the classes, the number of images of each class, and the sums of all pixels and of their squares in
    each channel have to agree exactly, for training and test images. Neither damage nor other images pass this by
    accident. It does not see a mere change of order: of images, of pixels within a channel, or of labels among images.
    That files are the published ones bit by bit is shown by their checksums, which the unpacked binary form and the
    Parquet form on Hugging Face do not have.

    Raises:
        InputError: naming what differs.
    """
    differs = "" if collection.classes == spec.classes else "names of the classes"
    for part, known in spec.content.items():
        split = collection.parts[part]
        counts = np.bincount(split.labels.clip(min=0), minlength=len(spec.classes)).tolist()
        if counts != [known.per_class] * len(spec.classes) or split.labels.min() < 0:
            differs = differs or f"number of {part} images of each class"
        if channel_sums(split.images) != (known.sums, known.squares):
            differs = differs or f"sum of the pixels of the {part} images"
    if differs:
        raise InputError(
            f"{where}: these are not the images of {spec.title} (they differ in the {differs}); remove this copy and "
            f"use {spec.binary.archive} or {spec.python.archive}."
        )


# --- on disk ---------------------------------------------------------------------------------------------------------


def _find(spec: CifarSpec, folder: Path) -> tuple[Form, Path] | None:
    """The first of: an archive, an unpacked archive; in ``folder``, then in the folders in it."""
    try:
        places = [folder, *sorted(sub for sub in folder.iterdir() if sub.is_dir())]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"--data-dir: {folder} cannot be read ({error.strerror}); give a folder.") from None
    for place in places:
        with suppress(PermissionError):  # such as the lost+found of a disk
            for form in (spec.binary, spec.python):
                if (place / form.archive).is_file():
                    return form, place / form.archive
            for form in (spec.binary, spec.python):
                if (place / form.folder).is_dir():
                    return form, place / form.folder
    return None


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); put it in place, or delete its folder to download it again."
        ) from None


def _check_md5(raw: bytes, expected: str, path: Path, remedy: str) -> None:
    if (found := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != expected:
        raise InputError(f"{path} is damaged or incomplete (its MD5 is {found}, not {expected}); {remedy}.")


def _read_archive(form: Form, path: Path) -> dict[str, bytes]:
    """Contents of the files that we need. What is parsed is what was verified: the archive is read once, to memory."""
    raw = _read(path)
    _check_md5(raw, form.md5, path, "delete it, and it will be downloaded again")
    wanted = {f"{form.folder}/{name}": name for name in (*sum(form.files.values(), ()), form.names)}
    files = {}
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name in wanted and member.isfile() else None
            if content is not None:
                files[wanted[member.name]] = content.read()
    return files


def _read_folder(form: Form, path: Path) -> dict[str, bytes]:
    """The same of an unpacked archive."""
    files = {name: _read(path / name) for name in (*sum(form.files.values(), ()), form.names)}
    for name, expected in form.file_md5.items():
        _check_md5(files[name], expected, path / name, f"delete {path} and download or unpack it again")
    return files


_Parsed = tuple[dict[str, Part], tuple[str, ...]]


def _parse_binary(spec: CifarSpec, files: Mapping[str, bytes], path: Path) -> _Parsed:
    """Records of label and pixels. Without known checksums, structure is all that can be checked file by file."""
    parts = {}
    for part, names in spec.binary.files.items():
        count = spec.content[part].per_class * len(spec.classes) // len(names)
        record = spec.label_bytes + _PIXELS
        for name in names:
            if len(files[name]) != count * record:
                raise InputError(
                    f"{path / name} is damaged or incomplete ({len(files[name])} bytes, not {count * record}); "
                    f"delete {path} and download or unpack it again."
                )
        records = np.concatenate([np.frombuffer(files[name], np.uint8).reshape(count, record) for name in names])
        parts[part] = _split(records[:, spec.label_bytes :], records[:, spec.label_bytes - 1])
    return parts, tuple(files[spec.binary.names].decode("ascii", "replace").split())


def _parse_python(spec: CifarSpec, files: Mapping[str, bytes], path: Path) -> _Parsed:
    """Pickled dictionaries of pixels and labels, whose checksums have been verified."""
    content = {name: _unpickle(raw, path / name) for name, raw in files.items()}
    parts = {}
    for part, names in spec.python.files.items():
        pixels = np.concatenate([content[name][b"data"] for name in names])
        labels = np.concatenate([content[name][spec.label_key.encode()] for name in names])
        parts[part] = _split(pixels, labels)
    return parts, tuple(name.decode() for name in content[spec.python.names][spec.names_key.encode()])


def _split(pixels: np.ndarray, labels: np.ndarray) -> Part:
    images = np.ascontiguousarray(pixels).reshape(-1, 3, _SIDE, _SIDE)
    return Part(images, labels.astype(np.int64))


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries, lists, strings, numbers and arrays; refuses to name anything else."""

    _ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): lambda name, *_: np.dtype(name),  # its further, numeric arguments are out of use
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def _unpickle(raw: bytes, path: Path) -> Any:
    try:
        return _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds what does not belong there ({error}); delete it and download it again."
        ) from None


# --- from elsewhere --------------------------------------------------------------------------------------------------


def _fetch(spec: CifarSpec, config: DataConfig, console: Console | None) -> tuple[Form, Path]:
    """Downloads an archive into ``config.data_dir``."""
    if config.source == "none":
        raise InputError(
            f"{config.dataset} is not in {config.data_dir}, and nothing was to be downloaded; say with --data-dir "
            "where it is, or with --source where to get it."
        )
    forms = {form.archive: form for form in (spec.binary, spec.python)}
    remotes = []
    for url in _urls(spec, config.source):
        form = spec.python if Path(urlsplit(url).path).name == spec.python.archive else spec.binary
        remotes.append(Remote(url, form.archive, form.md5))
    try:
        path = fetch(remotes, Path(config.data_dir), console)
    except Unavailable as error:
        raise InputError(
            f"{config.dataset} is not in {config.data_dir} and cannot be downloaded ({error}): put "
            f"{spec.binary.archive} or {spec.python.archive} into {config.data_dir}, or name another place with "
            "--source, or use --dataset digits, which needs no download."
        ) from None
    return forms[path.name], path


def _urls(spec: CifarSpec, source: str | None) -> Sequence[str]:
    """Where to look for an archive: the known places, or the one that the user gave."""
    if source is None:
        return spec.urls
    try:
        parts = urlsplit(source)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("https", "http", "file"):
        raise InputError(f"--source: {source!r} is not an https://, http:// or file:// URL; give one, or hub.")
    if parts.path.endswith((".tar.gz", ".tgz")):
        return [source]
    return [parts._replace(path=f"{parts.path.rstrip('/')}/{f.archive}").geturl() for f in (spec.binary, spec.python)]


def _from_hub(spec: CifarSpec, console: Console | None) -> _Parsed:
    """The Parquet form: PNG images and labels in columns."""
    try:
        import pyarrow.parquet as parquet
        from huggingface_hub import constants, hf_hub_download
    except ImportError:
        raise InputError("--source hub needs two more packages; pip install 'convmixer-lab[hub]'.") from None
    repository, _, folder = spec.hub.rpartition("/")
    offline = not reachable(constants.ENDPOINT)  # asking the library to find that out takes half a minute
    parts = {}
    for part in spec.content:
        name = f"{folder}/{part}-00000-of-00001.parquet"
        try:
            path = hf_hub_download(repository, name, repo_type="dataset", local_files_only=offline)
            table = parquet.read_table(path, columns=["img", spec.hub_label])
            encoded = table["img"].combine_chunks().field("bytes").to_pylist()
            labels = table[spec.hub_label].to_numpy()
        except (OSError, ValueError, KeyError) as error:
            reason = f"there is no way to {constants.ENDPOINT}" if offline else str(error).split("\n")[0].rstrip(".")
            raise InputError(
                f"--source hub: {name} of {repository} is unavailable ({reason}); try again later or without it."
            ) from None
        names = [f"{name}, image {index}" for index in range(len(encoded))]
        with progress(console, f"decoding {part} images", len(encoded)) as advance:
            pixels = decode_images(encoded, names, _SIDE, lambda done: advance(done, None))
        parts[part] = _split(pixels, labels)
    return parts, spec.classes
