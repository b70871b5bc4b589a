"""Checkpoints: whole or recognised as damaged, whatever happens to the file."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convmixer.runs.checkpoint import (
    DamagedCheckpointError,
    discard_damaged,
    load_checkpoint,
    save_checkpoint,
)
from convmixer.runs.paths import CURRENT, PREVIOUS

STATE = {"weights": {"a": torch.arange(300.0)}, "epoch": 3, "losses": [0.5, 0.25], "none": None}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) == (None, [])
    save_checkpoint(tmp_path, STATE)
    state, complaints = load_checkpoint(tmp_path)
    assert state is not None
    assert complaints == []
    assert torch.equal(state["weights"]["a"], torch.arange(300.0))
    assert {key: state[key] for key in ("epoch", "losses", "none")} == {"epoch": 3, "losses": [0.5, 0.25], "none": None}
    assert [path.name for path in tmp_path.iterdir()] == [CURRENT]  # no temporary file is left


def test_plain_torch_reads_it_too(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, STATE)
    assert torch.load(tmp_path / CURRENT, weights_only=True)["epoch"] == 3


@pytest.mark.parametrize("percent", range(0, 100, 5))
def test_a_truncated_newest_one_falls_back_and_says_so(tmp_path: Path, percent: int) -> None:
    save_checkpoint(tmp_path, {"epoch": 1})
    save_checkpoint(tmp_path, {"epoch": 2})
    content = (tmp_path / CURRENT).read_bytes()
    (tmp_path / CURRENT).write_bytes(content[: len(content) * percent // 100])
    state, complaints = load_checkpoint(tmp_path)
    assert state == {"epoch": 1}
    assert len(complaints) == 1
    assert str(tmp_path / CURRENT) in complaints[0]
    assert "damaged" in complaints[0]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(tmp_path: Path, position: float, bit: int) -> None:
    save_checkpoint(tmp_path, STATE)
    content = bytearray((tmp_path / CURRENT).read_bytes())
    content[int(position * len(content))] ^= 1 << bit
    (tmp_path / CURRENT).write_bytes(content)
    (tmp_path / PREVIOUS).unlink(missing_ok=True)
    with pytest.raises(DamagedCheckpointError, match=CURRENT):
        load_checkpoint(tmp_path)


def test_a_missing_newest_one_is_no_damage(tmp_path: Path) -> None:
    """A kill between the two renames of a save leaves the older name alone."""
    save_checkpoint(tmp_path, {"epoch": 1})
    (tmp_path / CURRENT).rename(tmp_path / PREVIOUS)
    assert load_checkpoint(tmp_path) == ({"epoch": 1}, [])


def test_a_full_disk_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, {"epoch": 1})

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, {"epoch": 2})
    monkeypatch.undo()
    assert load_checkpoint(tmp_path) == ({"epoch": 1}, [])
    assert [path.name for path in tmp_path.iterdir()] == [CURRENT]


def test_a_damaged_newest_one_never_takes_the_place_of_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, {"epoch": epoch})
    (tmp_path / CURRENT).write_bytes(b"rotten")
    discard_damaged(tmp_path)
    assert load_checkpoint(tmp_path) == ({"epoch": 1}, [])

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, {"epoch": 3})
    assert load_checkpoint(tmp_path) == ({"epoch": 1}, [])
    discard_damaged(tmp_path)
    assert load_checkpoint(tmp_path) == ({"epoch": 1}, [])  # nothing damaged, nothing removed


@pytest.mark.parametrize("content", [b"", b"text", pickle.dumps(print), pickle.dumps([1])])
def test_a_right_checksum_over_another_content_is_damage(tmp_path: Path, content: bytes) -> None:
    seal = b"\nconvmixer sha256 " + hashlib.sha256(content).hexdigest().encode()
    (tmp_path / CURRENT).write_bytes(content + seal)
    with pytest.raises(DamagedCheckpointError, match="is no checkpoint"):
        load_checkpoint(tmp_path)
