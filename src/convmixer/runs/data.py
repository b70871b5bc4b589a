"""Where a run's images are now: folders move, and a run is read from other directories than it began in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convmixer.config import DataConfig, Protocol
from convmixer.data.collection import Divided, Part, divide, load_collection
from convmixer.errors import InputError
from convmixer.runs.run_dir import RunDir

if TYPE_CHECKING:
    from rich.console import Console

    from convmixer.data import Dataset
    from convmixer.data.collection import Collection


@dataclass(frozen=True)
class LabelledImages:
    """Images to evaluate a run on, labelled in the order of its classes."""

    name: str
    parts: dict[str, Part]
    own: bool
    """Whether these are the images that the run began with, wherever they lie now."""


@dataclass(frozen=True)
class Wanted:
    """What images have to be like to evaluate a model on them."""

    where: str
    """The run or the file."""
    data: DataConfig
    """How its own data were loaded and divided."""
    protocol: Protocol
    classes: tuple[str, ...]
    image_size: int
    fingerprint: str
    """Of its own data."""


def absolute_place(data: DataConfig) -> dict[str, str]:
    """Where the data are, wherever the process is: what ``environment.json`` keeps under "data"."""
    kind, _, folder = data.dataset.partition(":")
    dataset = f"folder:{_absolute(folder)}" if kind == "folder" else data.dataset
    return {"dataset": dataset, "data_dir": _absolute(data.data_dir)}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def load_own_data(run: RunDir, *, download: bool = False, console: Console | None = None) -> Dataset:
    """:func:`own_images` as tensors; what endangers results on them goes to ``console`` as well."""
    from convmixer.data import Dataset
    from convmixer.data.inspection import warn

    dataset = Dataset.of(own_images(run, download=download, console=console))
    warn(dataset, console)
    return dataset


def own_images(run: RunDir, *, download: bool = False, console: Console | None = None) -> Divided:
    """A run's data, from where its configuration says, else from where they were when it last began.

    Args:
        run: the run.
        download: fetch an archive that is in neither place, as the configuration says.
        console: for progress and remarks.

    Raises:
        InputError: they are in neither place, or what is there are other images.
    """
    protocol, info = run.config().protocol, run.dataset()
    problems: list[str] = []
    for number, data in enumerate(_places(run)):
        try:
            data = data if download and number == 0 else replace(data, source="none")
            found = divide(load_collection(data, console, info.classes), data, protocol=protocol)
        except InputError as error:
            problems.append(error.with_flags())
            continue
        if found.info.fingerprint == info.fingerprint:
            return found
        problems.append(other_images(run.path, data.dataset))
    where = "--dataset folder:PATH" if run.config().data.dataset.startswith("folder:") else "--data-dir"
    raise InputError(f"{problems[-1]} If the data moved, say with {where} where they are now.")


def other_images(where: str | Path, name: str) -> str:
    """What is said of a data set ``name`` whose fingerprint is not that of the data of the run ``where``."""
    return (
        f"{name}: these are not the images that {where} was trained on (their fingerprint differs from the one in "
        "its dataset.json)."
    )


def _places(run: RunDir) -> Iterator[DataConfig]:
    """Each place once: as configured, then as recorded at each start, the latest first."""
    data = run.config().data
    seen = [absolute_place(data)]
    yield data
    environment: Any = run.environment()
    while isinstance(environment, dict):
        recorded = environment.get("data")
        if isinstance(recorded, dict) and recorded not in seen:
            seen.append(recorded)
            yield replace(data, **{name: recorded[name] for name in ("dataset", "data_dir") if name in recorded})
        environment = next(iter(environment.get("earlier") or []), None)


def load_images(
    run: RunDir,
    split: str,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    source: str | None = None,
    console: Console | None = None,
) -> LabelledImages:
    """Images to evaluate a run on: its own, or another labelled set with the same classes.

    Nothing is downloaded unless ``data_dir`` or ``source`` is given.

    Args:
        run: the run.
        split: the part that is wanted: train, val or test. Another set without parts is taken whole.
        dataset: where the run's own data are now, or another set; by default where the run knows them to be.
        data_dir: where to look for archives.
        source: where to download an archive from.
        console: for progress and remarks.

    Raises:
        InputError: no such data, other classes than the run knows, or no such split.
    """
    config, info = run.config(), run.dataset()
    if dataset is None and data_dir is None and source is None:
        own = own_images(run, console=console)
        return LabelledImages(info.name, _with(own.parts, split), own=True)
    wanted = Wanted(str(run.path), config.data, config.protocol, tuple(info.classes), info.image_size, info.fingerprint)
    return load_labelled(wanted, split, dataset=dataset, data_dir=data_dir, source=source, console=console)


def load_labelled(
    wanted: Wanted,
    split: str,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    source: str | None = None,
    console: Console | None = None,
) -> LabelledImages:
    """As :func:`load_images`, for whatever has learnt from such images; one of the places has to be given."""
    named = replace(wanted.data, dataset=dataset) if dataset else wanted.data
    # A folder's images have to come in the size that the network was trained on.
    size = wanted.image_size if named.dataset.startswith("folder:") else None
    online = "none" if data_dir is None and source is None else source
    data = replace(named, image_size=size, data_dir=data_dir or named.data_dir, source=online)
    collection = load_collection(data, console, wanted.classes)
    try:
        own = divide(collection, data, protocol=wanted.protocol)
        if own.info.fingerprint == wanted.fingerprint:
            return LabelledImages(own.info.name, _with(own.parts, split), own=True)
    except InputError:
        pass  # it cannot be divided as its own data were, so it is another set
    if dataset is None:
        raise InputError(
            f"{other_images(wanted.where, data.dataset)} To evaluate on others all the same, name them with --dataset."
        )
    return LabelledImages(collection.name, _other(wanted, collection, split), own=False)


def _with(parts: dict[str, Part], split: str) -> dict[str, Part]:
    if split not in parts:
        raise InputError(f"--split: this run has no {split} part; choose from {', '.join(parts)}.")
    return parts


def _other(wanted: Wanted, collection: Collection, split: str) -> dict[str, Part]:
    """The part of another set, whose classes are in the order of the model's where they are the same."""
    parts = dict(collection.parts)
    if differ := sorted(set(collection.classes) ^ set(wanted.classes)):
        who = [f"{name!r} ({'only the run' if name in wanted.classes else 'only the data'})" for name in differ[:4]]
        raise InputError(
            f"--dataset: {collection.name} has other classes than {wanted.where}: {', '.join(who)}"
            f"{', …' if len(differ) > 4 else ''}; give a set with the classes that the run knows."
        )
    if set(parts) == {"train"}:
        parts = {split: parts["train"]}
    if split not in parts:
        raise InputError(f"--split: {collection.name} has no {split} part; choose from {', '.join(parts)}.")
    return {split: parts[split]}
