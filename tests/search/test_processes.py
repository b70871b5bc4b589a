"""Worker processes: where each of them trains, and how one that is refused ends them all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from convmixer.errors import InputError
from convmixer.search.processes import assigned_gpus, run_workers


@pytest.mark.parametrize(
    ("visible", "found", "expected"),
    [
        (None, 0, [None, None, None]),
        (None, 1, [None, None, None]),
        (None, 2, ["0", "1", "0"]),
        (None, 8, ["0", "1", "2"]),
        ("5", 1, [None, None, None]),
        ("6,2", 2, ["6", "2", "6"]),
        ("", 0, [None, None, None]),
    ],
)
def test_workers_take_turns_on_the_gpus(
    visible: str | None, found: int, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    assert assigned_gpus(3, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}) == expected


def note(folder: Path) -> None:
    (folder / str(os.getpid())).write_text(os.environ["CUDA_VISIBLE_DEVICES"])


def refuse(message: str) -> None:
    raise InputError(message)


@pytest.mark.slow
def test_each_worker_sees_its_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert run_workers(3, note, [tmp_path]) == []
    assert sorted(file.read_text() for file in tmp_path.iterdir()) == ["4", "4", "7"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"


@pytest.mark.slow
def test_bad_input_of_a_worker_is_that_of_the_search() -> None:
    with pytest.raises(InputError, match="no such thing"):
        run_workers(2, refuse, ["no such thing"])
