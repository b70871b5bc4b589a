"""What the system refuses: full disks, quotas, errors, permissions, limits, folders that vanish, clocks that jump."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture.areas import Result
from tests.torture.judge import Judgement, difference, last_lines, of_end, of_refusal
from tests.torture.operations import refusing, watch
from tests.torture.sandbox import Ended, run
from tests.torture.worlds import make_data, plain, results, searching, studying, training

Job = Callable[[], None]
_WRITERS: dict[str, Callable[[], Job]] = {"run": training, "search": searching, "study": studying}
_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS)
_KINDS = (("open",), ("write",), ("fsync",), ("replace",), ("open", "write", "fsync", "replace", "mkdir"))
_LIMIT = 60.0
_CLONE_NEWNS, _MS_PRIVATE = 0x00020000, (1 << 18) | 16384
_CAPABILITIES = 0x20080522  # version 3 of the system call's structure
_IGNORE_MODES = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


class Machine:
    """See the module."""

    name, goal, share = "machine", 60, 0.05

    def prepare(self, folder: Path) -> None:
        """Lets each job end undisturbed, and lists the scenarios."""
        self.folder = folder
        make_data(folder)
        self.undisturbed: dict[str, Any] = {}
        for name, job in _WRITERS.items():
            ended = run(job(), folder, _LIMIT)
            if ended.status != 0:
                raise RuntimeError(f"{name} fails undisturbed: {ended}")
            self.undisturbed[name] = results(folder / name)
        scenarios: list[tuple[str, str, Any]] = [
            (name, "fault", (code, kinds)) for name in _WRITERS for code in _ERRORS for kinds in _KINDS
        ]
        scenarios += [("run", "tmpfs", size) for size in (16, 40, 80, 100, 120, 160, 200, 300)]
        scenarios += [(name, "file size", size) for name in _WRITERS for size in (400, 1_000, 5_000, 20_000)]
        scenarios += [("run", "descriptors", count) for count in (16, 20, 32, 64)]
        scenarios += [("run", "memory", size << 20) for size in (1, 8, 64, 512)]
        scenarios += [(name, "clock", None) for name in _WRITERS]
        scenarios += [(name, "vanished", None) for name in _WRITERS]
        scenarios += [(name, "read-only", None) for name in (*_WRITERS, "evaluate", "report")]
        scenarios += [(name, "another user's", None) for name in (*_WRITERS, "evaluate", "report", "predict", "runs")]
        random.Random(0).shuffle(scenarios)
        self.scenarios = scenarios

    def trial(self, index: int, random_: random.Random, folder: Path) -> Result | None:
        """One scenario; later rounds have their faults elsewhere."""
        name, kind, detail = self.scenarios[index % len(self.scenarios)]
        shutil.copytree(self.folder / "data", folder / "data")
        shutil.copy(self.folder / "picture.png", folder / "picture.png")
        shown = f"{errno.errorcode[detail[0]]} at {'/'.join(detail[1])}" if kind == "fault" else detail
        what = f"{name}, {kind}" + (f" {shown}" if shown is not None else "")
        if name not in _WRITERS or kind in ("read-only", "another user's"):
            judgement = self._closed(name, kind, folder)
        elif kind == "tmpfs":
            judgement = self._full(name, detail, folder)
        else:
            job, quiet = _WRITERS[name](), kind in ("clock", "descriptors")
            first = run(_disturbed(job, kind, detail, folder / name, random_), folder, _LIMIT)
            judgement = self._resumed(name, first, folder, may_succeed=True, lost=kind == "vanished")
            if quiet and judgement.verdict == "refused":
                judgement = Judgement("differs", judgement.detail)
        return Result(what, 1, ((what, judgement),))

    def _resumed(self, name: str, first: Ended, folder: Path, *, may_succeed: bool, lost: bool = False) -> Judgement:
        """One sentence or success; then the same command without a fault ends as if there had been none."""
        judgement = of_end(first) if may_succeed and first.status == 0 else of_refusal(first)
        if judgement is not None and not judgement.survived:
            return judgement
        last = run(_WRITERS[name](), folder, _LIMIT)
        if (failure := of_end(last)) or last.status != 0:
            return failure or Judgement("differs", f"not resumable: {last_lines(last.err)}")
        if (found := results(folder / name)) != self.undisturbed[name]:
            return Judgement("differs", difference(self.undisturbed[name], found))
        return judgement or Judgement("identical")

    def _full(self, name: str, kib: int, folder: Path) -> Judgement:
        """A file system in memory that is too small for the run; its files are then moved to a larger one."""
        place = folder / name
        place.mkdir()
        (folder / "kept").mkdir()

        def execute() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, _MS_PRIVATE, None):
                raise SystemExit(77)
            if libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 0, f"size={kib}k".encode()):
                raise SystemExit(77)
            try:
                _WRITERS[name]()()
            finally:
                with contextlib.suppress(OSError):
                    shutil.copytree(place, folder / "kept", dirs_exist_ok=True)

        first = run(execute, folder, _LIMIT)
        if first.status == 77:
            return Judgement("identical", "left out: mounting is not allowed")
        place.rmdir()
        (folder / "kept").rename(place)
        return self._resumed(name, first, folder, may_succeed=True)

    def _closed(self, name: str, kind: str, folder: Path) -> Judgement:
        """Folders that may not be written, or not even be read."""
        subject = name if name in _WRITERS else "run"
        shutil.copytree(self.folder / subject, folder / subject)
        shutil.copytree(self.folder / "cache", folder / "cache")
        (folder / subject / "summary.json").unlink(missing_ok=True) if name == "run" else None
        mode = 0o555 if kind == "read-only" else 0o000
        for path in [folder / subject, *(folder / subject).rglob("*")]:
            os.chmod(path, mode & (0o777 if path.is_dir() else 0o666))
        jobs: dict[str, Job] = {
            "evaluate": plain("evaluate", subject, "--json", "--device", "cpu", "--engine", "plain"),
            "report": plain("report", subject),
            "predict": plain("predict", subject, "picture.png", "--device", "cpu"),
            "runs": plain("runs", subject),
        }
        job = jobs[name] if name in jobs else _WRITERS[name]()
        ended = run(_obeying_modes(job), folder, _LIMIT)
        for path in [folder / subject, *(folder / subject).rglob("*")]:
            os.chmod(path, 0o755)
        if (failure := of_end(ended)) or ended.status == 0:
            return failure or Judgement("identical")
        judgement = of_refusal(ended)
        if kind == "read-only" and name == "evaluate" and '"accuracy"' not in ended.out:
            return Judgement("differs", f"no figures: {last_lines(ended.err)}")
        return judgement


def _disturbed(job: Job, kind: str, detail: Any, place: Path, random_: random.Random) -> Job:
    number, for_good = random_.randint(1, 12), random_.random() < 0.7
    share = random_.random()

    def execute() -> None:
        if kind == "fault":
            watch(place, refusing(detail[0], detail[1], number, for_good=for_good))
        elif kind == "vanished":
            watch(place, lambda count, *_: shutil.rmtree(place, ignore_errors=True) if count == 6 * number else None)
        elif kind == "file size":
            resource.setrlimit(resource.RLIMIT_FSIZE, (detail, detail))
        elif kind == "descriptors":
            resource.setrlimit(resource.RLIMIT_NOFILE, (detail, detail))
        elif kind == "memory":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + detail, used + detail))
        elif kind == "clock":
            _jumping_clock(share)
        job()

    return execute


def _jumping_clock(share: float) -> None:
    """The time of day leaps by decades at each question."""
    clock, jumps = time.time, iter(range(1, 1 << 30))
    time.time = lambda: clock() + (-1) ** next(jumps) * 1e9 * share


def _obeying_modes(job: Job) -> Job:
    """The job without root's right to ignore what files permit."""

    def execute() -> None:
        if os.geteuid() == 0:
            header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
            sets = (ctypes.c_uint32 * 6)()
            libc = ctypes.CDLL(None)
            libc.capget(header, sets)
            for index in (0, 1):
                sets[index] &= ~_IGNORE_MODES
            libc.capset(header, sets)
        job()

    return execute
