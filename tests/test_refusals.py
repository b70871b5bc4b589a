"""What the operating system refuses, and what is where a file should be: one sentence, and no run is blamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from convmixer.cli import exit_status
from convmixer.data import Dataset
from convmixer.errors import InputError, refusal
from convmixer.files import is_locked, write_atomic
from convmixer.manifest import Manifest
from convmixer.report.collect import collect
from convmixer.runs import RunDir
from convmixer.runs.checkpoint import DamagedCheckpointError, load_checkpoint
from convmixer.runs.listing import list_runs
from convmixer.runtime.memory import enough_memory
from convmixer.search.grid_search import grid_search
from convmixer.search.pool import RunPool
from convmixer.search.space import SearchConfig
from convmixer.training import train
from tests.helpers.runs import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raising(error: BaseException) -> Callable[..., int]:
    def raise_(*_: object, **__: object) -> int:
        raise error

    return raise_


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.EISDIR])
def test_a_refusal_is_a_sentence(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(raising(OSError(number, os.strerror(number), "here"))) == 2
    assert capsys.readouterr().err.startswith(f"convmixer: here: {os.strerror(number)}; ")


def test_other_errors_are_ours() -> None:
    for error in (OSError(errno.EBADF, "Bad file descriptor"), OSError("without a number")):
        assert refusal(error) == ""
        with pytest.raises(OSError):  # noqa: PT011 (whichever it is)
            exit_status(raising(error))


def test_the_status_is_right_where_nothing_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmixer.cli.ERRORS.print", raising(FULL))
    assert exit_status(raising(InputError("no"))) == 2


def test_what_is_written_when_the_disk_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError) as caught:  # noqa: PT011
        write_atomic(tmp_path / "a.json", "1")
    assert refusal(caught.value) == f"{tmp_path / 'a.json'}: No space left on device; make room and try again; " + (
        "--resume continues a run."
    )


def test_a_full_disk_is_no_crash_of_a_run(tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, config = RunPool(tmp_path), tiny_config(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr("convmixer.training.loop.TrainingLoop.run", raising(FULL))
        with pytest.raises(OSError, match="No space left"):
            next(pool.run_all([config], dataset=digits))
    assert RunDir(pool.path(config)).status() == "interrupted"
    assert pool.run(config, dataset=digits).status == "finished"


def test_threads_that_cannot_be_started_are_a_lack_of_memory() -> None:
    with pytest.raises(InputError, match="needs more memory"), enough_memory("it", "try less"):
        raise RuntimeError("can't start new thread")


@pytest.fixture
def run(tmp_path: Path, digits: Dataset) -> Path:
    train(tiny_config(epochs=1), tmp_path / "run", dataset=digits, artifacts=False)
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["config.json", "dataset.json", "environment.json", "summary.json", "manifest.json"])
@pytest.mark.parametrize("instead", ["folder", "pipe", "loop"])
def test_something_else_where_a_record_should_be(run: Path, name: str, instead: str) -> None:
    (run / name).unlink()
    if instead == "folder":
        (run / name).mkdir()
    elif instead == "pipe":
        os.mkfifo(run / name)
    else:
        (run / name).symlink_to(name)
    row = collect(run).runs["."].row
    assert (row.status, name in row.message) == ("unreadable", True)
    rows, problems = list_runs(run)
    assert not rows or name == "dataset.json"  # which the list does not read
    assert all(name in problem for problem in problems)


def test_a_run_without_its_configuration_is_still_one(run: Path) -> None:
    for name in ("config.json", "summary.json", "metrics.jsonl"):
        (run / name).unlink()
    rows, (problem,) = list_runs(run.parent)
    assert not rows
    assert "config.json: is missing" in problem
    assert collect(run.parent).runs["run"].row.status == "unreadable"


def test_a_folder_in_place_of_a_search_is_a_problem_of_the_report(run: Path) -> None:
    (run.parent / "grid_search.json").mkdir()
    (run.parent / "experiments" / "widths.json").mkdir(parents=True)
    study = collect(run.parent)
    assert sorted(study.runs) == ["run"]
    assert [problem.partition(":")[0] for problem in study.problems] == ["experiments/widths.json", "grid_search.json"]


def test_a_search_whose_record_is_lost_is_a_problem_of_the_report(run: Path) -> None:
    Manifest(run.parent).write({"grid_search.json": "{}"})
    (run.parent / "grid_search.json").unlink()
    (problem,) = collect(run.parent).problems
    assert "grid_search.json: is missing" in problem


def test_a_checkpoint_that_is_a_folder_or_a_pipe_is_damaged(run: Path) -> None:
    for make in (Path.mkdir, os.mkfifo):
        (run / "checkpoint.pt").unlink()
        (run / "checkpoint.previous.pt").unlink(missing_ok=True)
        make(run / "checkpoint.pt")
        with pytest.raises(DamagedCheckpointError, match="is no file"):
            load_checkpoint(run)
        if make is Path.mkdir:
            (run / "checkpoint.pt").rmdir()
            (run / "checkpoint.pt").touch()


def test_asking_for_the_lock_of_a_pipe_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock", 0o400)
    assert not is_locked(tmp_path / "lock")


def test_a_search_mends_its_own_files(tmp_path: Path, digits: Dataset) -> None:
    settings = SearchConfig(values=("lr=0.01,0.02",), pruner="median", seeds=1)
    base, private = tiny_config(engine="plain", epochs=1), tmp_path / ".search"
    grid_search(base, settings, tmp_path, dataset=digits)
    whole = (tmp_path / "grid_search.json").read_bytes()
    (tmp_path / ".grid_search.json.12345678.tmp").write_text("what a kill leaves")
    for damage in (b"\xc1\xff", b"", b"../elsewhere"):
        (private / "name").write_bytes(damage)
        (private / "space.json").write_bytes(damage)
        grid_search(base, settings, tmp_path, dataset=digits)
    (private / "name").unlink()
    os.mkfifo(private / "name")
    grid_search(base, settings, tmp_path, dataset=digits)
    assert (tmp_path / "grid_search.json").read_bytes() == whole
    assert not list(tmp_path.glob(".*.tmp"))
