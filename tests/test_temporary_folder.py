"""Folders for parts of a file that is not whole yet: gone with their process, or with the next one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convmixer.files import temporary_folder

_KILLED = """
import os, signal
from pathlib import Path
from convmixer.files import temporary_folder
with temporary_folder(Path("."), "m[1].onnx") as folder:
    (folder / "part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def make_old(folder: Path) -> None:
    an_hour_ago = time.time() - 3600
    os.utime(folder, (an_hour_ago, an_hour_ago))


def test_it_goes_with_the_block(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, "m.onnx") as folder:
        (folder / "part").write_text("half")
        assert folder.parent.parent == tmp_path
    with pytest.raises(ValueError, match="stop"), temporary_folder(tmp_path, "m.onnx"):
        raise ValueError("stop")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_what_a_killed_process_left_goes_with_the_next_one_of_that_name(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", _KILLED], cwd=tmp_path, check=False).returncode < 0
    (left,) = tmp_path.iterdir()
    with temporary_folder(tmp_path, "m[1].onnx"):
        assert left.exists()  # as young as one that is not locked yet
    make_old(left)
    with temporary_folder(tmp_path, "other.onnx"):
        assert left.exists()
    with temporary_folder(tmp_path, "m[1].onnx"):
        assert not left.exists()
    assert not list(tmp_path.iterdir())


def test_one_that_is_in_use_stays(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, "m.onnx") as first:
        make_old(first.parent)
        with temporary_folder(tmp_path, "m.onnx") as second:
            assert first.exists()
            assert second != first
