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

from convmixer.files import atomic_path, sync

CURRENT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
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
            _read(folder / CURRENT)
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
                return _read(path), complaints
            except DamagedCheckpointError as error:
                complaints.append(str(error))
    if complaints:
        raise DamagedCheckpointError("; ".join(complaints))
    return None, complaints


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    body, seal = content[:-_SEAL_LENGTH], content[-_SEAL_LENGTH:]
    if seal != _SEAL + hashlib.sha256(body).hexdigest().encode():
        raise DamagedCheckpointError(f"{path} is damaged (its checksum does not match its content)")
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return state
