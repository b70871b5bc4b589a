"""Whether the files of runs, searches and studies are as they were written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from convmixer.errors import InputError
from convmixer.manifest import Manifest, Verification, holds_records, is_pretrained
from convmixer.runs.checkpoint import DamagedCheckpointError, another_run, check_whole, read_state
from convmixer.runs.paths import CURRENT, PREVIOUS
from convmixer.runs.run_dir import RunDir


def verify(root: Path, *, accept: bool = False) -> list[Verification]:
    """Compares records with their manifests, and checkpoints with their digests, in ``root`` and at any depth below.

    Args:
        root: a run, a search, a study, or a folder of them; hidden folders are passed over, links not followed.
        accept: take the records for right that are there now. Checkpoints stay what they are.

    Raises:
        InputError: no such directory, no records in it, or one that cannot be written with ``accept``.
    """
    if not root.is_dir():
        raise InputError(f"{root}: is not a directory; give one that holds runs.")
    folders = list(_folders(root))
    if not folders:
        raise InputError(f"{root}: holds no run, search or study.")
    found = []
    for folder in folders:
        manifest = Manifest(folder)
        if accept:
            try:
                manifest.accept()
            except OSError as error:
                raise InputError(f"{manifest.path}: cannot be written ({error.strerror or error}).") from None
        result = manifest.verify()
        _add_checkpoints(result)
        found.append(result)
    return found


def _folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if holds_records(Path(folder), files) and not is_pretrained(Path(folder), files):
            yield Path(folder)


def _add_checkpoints(result: Verification) -> None:
    run = RunDir(result.folder)
    for path in (run.path / CURRENT, run.path / PREVIOUS):
        if not os.path.lexists(path):
            continue
        problem = ""
        try:
            check_whole(path)
            if not result.problems and (differences := another_run(read_state(path), run.config())):
                problem = f"{path} is of another run ({differences})"
        except DamagedCheckpointError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{path} cannot be read ({error.strerror or error})"
        if problem:
            result.changed.append(path.name)
            result.problems.append(
                f"{problem}; restore it, or remove it to go on from the other one, if that is whole."
            )
        else:
            result.whole.append(path.name)
