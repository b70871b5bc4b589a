"""Checkpoints that survive whatever kills the run.

A checkpoint is what ``torch.save`` writes, followed by a line with the SHA-256 of it; ``torch.load`` ignores the line.
The newest two are kept: a damaged newest one falls back to the one before.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from convmixer.config import RunConfig, later_defaults
from convmixer.files import NotRegularError, atomic_path, open_regular, sync
from convmixer.runs.paths import CURRENT, PREVIOUS

_SEAL = b"\nconvmixer sha256 "
_SEAL_LENGTH = len(_SEAL) + 64


class DamagedCheckpointError(Exception):
    """A checkpoint file whose content is not what was written."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes ``state`` (tensors and plain values) as the newest checkpoint; the one before stays until it is whole."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    current = folder / CURRENT
    with atomic_path(current) as temporary:
        temporary.write_bytes(content + _SEAL + hashlib.sha256(content).hexdigest().encode())
        sync(temporary)
        if current.exists():
            current.replace(folder / PREVIOUS)


def discard_damaged(folder: Path) -> None:
    """Removes a damaged newest checkpoint: the next one would otherwise take the place of the good one before it."""
    try:
        if (folder / CURRENT).exists():
            check_whole(folder / CURRENT)
    except DamagedCheckpointError:
        (folder / CURRENT).unlink()


def load_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint in ``folder``, or None, and what was wrong with those that were passed over.

    Raises:
        DamagedCheckpointError: there are checkpoints, but none is whole.
    """
    complaints: list[str] = []
    for name in (CURRENT, PREVIOUS):
        path = folder / name
        if path.exists():
            try:
                return read_state(path), complaints
            except DamagedCheckpointError as error:
                complaints.append(str(error))
    if complaints:
        raise DamagedCheckpointError("; ".join(complaints))
    return None, complaints


def another_run(state: dict[str, Any], config: RunConfig) -> str:
    """What tells the run that a checkpoint's ``state`` is of from the one with ``config``; '' if it is of this one.

    Where the data lie does not count: they may move. Nor does a number of epochs that the run may be extended to.
    """
    own = {name: value for name, value in config.identity().items() if name != "dataset"}
    theirs = {**later_defaults(), **state.get("identity", own)}  # the first versions did not write it
    names = [name for name in own if theirs.get(name) != own[name]]
    if names == ["epochs"] and not config.replace(epochs=theirs["epochs"]).why_not_longer(config.train.epochs):
        return ""
    return ", ".join(f"{name} {theirs.get(name)} instead of {own[name]}" for name in names)


def check_whole(path: Path) -> None:
    """Raises DamagedCheckpointError if a checkpoint file's content is not what was written."""
    _body(path)


def _body(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read()
    except NotRegularError:
        raise DamagedCheckpointError(f"{path} is no file") from None
    except OSError as error:
        raise DamagedCheckpointError(f"{path} cannot be read ({error.strerror or error})") from None
    body, seal = content[:-_SEAL_LENGTH], content[-_SEAL_LENGTH:]
    if seal != _SEAL + hashlib.sha256(body).hexdigest().encode():
        raise DamagedCheckpointError(f"{path} is damaged (its checksum does not match its content)")
    return body


def read_state(path: Path) -> dict[str, Any]:
    """What was saved, on the CPU. Raises DamagedCheckpointError if the file is not what was written."""
    body = _body(path)
    try:
        state = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception:  # whatever was sealed there, it is made of nothing but tensors and plain values, or refused
        state = None
    if not isinstance(state, dict):
        raise DamagedCheckpointError(f"{path} is no checkpoint (its content is not what training writes)")
    return state
