"""Searches by real processes: killed at random, several at once, on a journal file and on a PostgreSQL server."""

from __future__ import annotations

import json
import multiprocessing
import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from convmixer.runs import RunDir
from convmixer.search.grid_search import grid_search
from convmixer.search.search import RECORDS
from convmixer.search.space import SearchConfig
from convmixer.search.storage import JOURNAL, close_storage, open_storage
from tests.helpers import processes
from tests.helpers.runs import tiny_config
from tests.helpers.searches import records, starts

BASE = tiny_config(engine="plain", epochs=1, kernel_size=3)
GRID = SearchConfig(values=("lr=0.01,0.03,0.1", "wd=0.001,0.01,0.1", "bs=200,400,600"), seeds=1)
PRUNED = SearchConfig(values=GRID.values, seeds=1, pruner="median")  # through Optuna; of one epoch none ends


def search(settings: SearchConfig, out: Path) -> None:
    torch.set_num_threads(1)
    grid_search(BASE, settings, out)


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., BaseProcess]]:
    """Starts searches in processes of their own, forked from one that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["convmixer.search.grid_search", "sklearn.datasets", "torch._dynamo"])
    processes: list[BaseProcess] = []

    def begin(settings: SearchConfig, out: Path) -> BaseProcess:
        processes.append(context.Process(target=search, args=(settings, out)))
        processes[-1].start()
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()


def wait_for(condition: Callable[[], bool], *processes: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert all(process.is_alive() for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ended(out: Path) -> dict[str, tuple[int, int]]:
    """The runs that have ended, and which file says so."""
    files = {path: path.stat() for path in (out / "runs").glob("*/summary.json")}
    return {path.parent.name: (stat.st_ino, stat.st_mtime_ns) for path, stat in files.items()}


def weights(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in (out / "runs").glob("*/model.safetensors")}


@pytest.fixture(scope="module")
def whole(start: Callable[..., BaseProcess], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "search"
    process = start(GRID, out)
    process.join()
    assert process.exitcode == 0
    return out


def results(out: Path) -> dict[str, Any]:
    """The records, whatever way the search went."""
    return {**records(out), "pruner": ""}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [GRID, PRUNED], ids=["listed", "adaptive"])
def test_killed_ten_times(
    start: Callable[..., BaseProcess], whole: Path, tmp_path: Path, settings: SearchConfig
) -> None:
    """Nothing is lost, nothing is done twice, and the end is as if nothing had happened."""
    out, moment = tmp_path / "search", random.Random(0)
    before: dict[str, tuple[int, int]] = {}
    for kill in range(10):
        process = start(settings, out)
        while len(ended(out)) < 2 * kill:
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(moment.uniform(0, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        now = ended(out)
        assert now | before == now
        before = now
        if kill == 5:
            (out / JOURNAL).unlink(missing_ok=settings is GRID)
    process = start(settings, out)
    process.join()
    assert process.exitcode == 0
    (winner,) = (Path(run["path"]).name for run in records(out)["winner"]["runs"])
    before.pop(winner, None)  # its summary is completed with the test figures
    assert ended(out) | before == ended(out)
    assert results(out) == results(whole)
    assert weights(out) == weights(whole)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [GRID, PRUNED], ids=["listed", "adaptive"])
def test_processes_share_the_work_of_one_that_dies(
    start: Callable[..., BaseProcess], whole: Path, tmp_path: Path, settings: SearchConfig
) -> None:
    out = tmp_path / "search"
    first, second = start(settings, out), start(settings, out)
    wait_for(lambda: len(processes_of(out)) == 2 and len(ended(out)) >= 6, first, second)
    first.kill()
    first.join()
    second.join()
    assert second.exitcode == 0
    assert results(out) == results(whole)
    assert weights(out) == weights(whole)
    again = {name: count for name, count in starts(out).items() if count > 1}
    assert len(again) <= 1  # the run that died with its process
    assert len(starts(out)) == 27


def processes_of(out: Path) -> Counter[int]:
    """How many runs each process began."""
    return Counter(json.loads(file.read_text())["process"] for file in (out / "runs").glob("*/environment.json"))


# The command line

VALUES = ("lr=0.01,0.03,0.1", "wd=0.01,0.02,0.05,0.1", "batch_size=100")
COMMAND = [
    *("grid-search", "--dataset", "digits", "--dim", "8", "--depth", "1"),
    *("--kernel-size", "3", "--epochs", "6", "--engine", "plain", "--device", "cpu", "--seeds", "2"),
    *(part for values in VALUES for part in ("--values", values)),
    *("--workers", "2"),
]


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.slow
def test_workers_are_stopped_with_their_parent_and_go_on(tmp_path: Path) -> None:
    out = tmp_path / "search"
    for signum, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        known = len(ended(out))
        process = processes.start(*COMMAND, "--out", str(out))
        deadline = time.monotonic() + 100
        while len(ended(out)) < known + 1:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers = children(process.pid)
        process.send_signal(signum)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == status, stderr
        assert len(workers) >= 2
        while any(is_running(pid) for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    base, settings = BASE.replace(epochs=6), SearchConfig(values=VALUES, workers=2, seeds=2)
    grid_search(base, settings, out)
    content = json.loads((out / RECORDS).read_text())
    assert [row["number"] for row in content["trials"]] == list(range(12))
    assert {row["state"] for row in content["trials"]} == {"finished"}
    assert len(content["winner"]["runs"]) == 2


@pytest.mark.gpu
def test_workers_share_a_gpu_that_their_parent_has_used(tmp_path: Path) -> None:
    torch.zeros(1, device="cuda")
    base, settings = BASE.replace(device="cuda"), SearchConfig(values=VALUES, workers=2, seeds=1)
    result = grid_search(base, settings, tmp_path)
    assert [row.state for row in result.records] == ["finished"] * 12
    assert len(processes_of(tmp_path)) == 2
    assert [run.device for run in result.runs] == ["cuda"]


# PostgreSQL


def find(program: str) -> str | None:
    """A program of Debian's package postgresql, which are not on the path."""
    return shutil.which(program) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{program}")), default=None)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a server that is started for this module, and listens on a socket in a folder of its own."""
    initdb, postgres = find("initdb"), find("postgres")
    if initdb is None or postgres is None:
        pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # tmp_path is closed to other users, and too long for a socket
    options: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if os.getuid() == 0:  # which PostgreSQL refuses to run as
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    subprocess.run([initdb, "-D", "data", "-A", "trust", "-U", "convmixer", "--no-sync"], check=True, **options)
    settings = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off"]
    server = subprocess.Popen([postgres, "-D", "data", *(part for s in settings for part in ("-c", s))], **options)
    deadline = time.monotonic() + 60
    while not (folder / ".s.PGSQL.5432").exists():
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield f"postgresql://convmixer@/postgres?host={folder}"
    server.send_signal(signal.SIGINT)
    server.wait(30)
    shutil.rmtree(folder)


@pytest.mark.slow
def test_two_processes_on_one_grid_through_postgresql(
    start: Callable[..., BaseProcess], postgresql: str, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "search"
    settings = SearchConfig(values=GRID.values, seeds=1, pruner="median", storage=postgresql)
    both = [start(settings, out), start(settings, out)]
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert results(out) == results(whole)
    assert len(records(out)["trials"]) == 27
    assert set(starts(out).values()) == {1}
    assert min(processes_of(out).values()) > 1
    assert set(processes_of(out)) == {process.pid for process in both}
    assert not (out / JOURNAL).exists()

    name = (out / ".search" / "name").read_text()
    storage = open_storage(postgresql, out)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials()
    assert len(trials) == 27
    assert {trial.state for trial in trials} == {optuna.trial.TrialState.COMPLETE}
    assert {trial.user_attrs["number"] for trial in trials} == set(range(27))

    # The database is lost, and with it a run directory: the one run is done again, and no other.
    optuna.delete_study(study_name=name, storage=storage)
    close_storage(storage)
    lost = out / records(out)["trials"][11]["path"]
    shutil.rmtree(lost)
    process = start(settings, out)
    process.join()
    assert process.exitcode == 0
    assert results(out) == results(whole)
    assert set(starts(out).values()) == {1}
    assert RunDir(lost).summary() is not None
