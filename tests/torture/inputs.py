"""Files, command lines and texts of strangers, thousands in a child: refused by name, or read; nothing else happens."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import random
import shutil
import struct
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.torture.areas import Result
from tests.torture.hostile import KINDS, Kind
from tests.torture.judge import Judgement, last_lines
from tests.torture.sandbox import Child
from tests.torture.worlds import make_world

_BATCH = 250
_SECONDS = 10.0  # for one input
_MOST_FAILURES = 5  # of a batch that are told one by one
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn", "ctypes.dlopen")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "urllib.Request")
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")


class Inputs:
    """See the module."""

    name, goal, share = "inputs", 100_000, 0.22

    def prepare(self, folder: Path) -> None:
        """Makes what the inputs are mutations of."""
        self.world = make_world(folder / "world")

    def trial(self, index: int, random_: random.Random, folder: Path) -> Result | None:
        """A batch of one kind; an input that hangs or ends the process is counted, and the next child goes on."""
        kind = KINDS[index % len(KINDS)]
        count = max(1, int(_BATCH * kind.weight))
        place = self.furnish(folder)
        judgements: list[tuple[str, Judgement]] = []
        position = mmap.mmap(-1, 8)
        start = 0
        while start < count:
            begin = start
            child = Child(partial(_batch, kind, index, begin, count, position), place, memory=3 << 30)
            hung, last = watched(child, position)
            ended = child.wait(0)
            start = struct.unpack("q", position[:8])[0] + 1
            judgements += [(f"{kind.name}, input {i}", Judgement(*rest)) for i, *rest in ended.value or []]
            if hung:
                judgements.append((f"{kind.name}, input {last}", Judgement("hang", f"more than {_SECONDS:.0f} s")))
            elif ended.signum is not None:
                detail = f"ended by signal {ended.signum}: {last_lines(ended.err)}"
                judgements.append((f"{kind.name}, input {last}", Judgement("signal", detail)))
            elif ended.value is None:
                judgements.append((f"{kind.name}, input {last}", Judgement("traceback", last_lines(ended.err))))
        judgements += self.outside(folder, kind)
        return Result(f"{kind.name}, {count} inputs", count, tuple(judgements))

    def furnish(self, folder: Path) -> Path:
        """The working folder of a batch, with what its inputs are mutations of, beside a file that is not its own."""
        place = folder / "place"
        place.mkdir()
        (folder / "outside.txt").write_text("not yours")
        for name in ("finished", "search", "study", "picture.png", "data"):
            source = self.world / name
            shutil.copytree(source, place / name) if source.is_dir() else shutil.copy(source, place / name)
        return place

    def outside(self, folder: Path, kind: Kind) -> list[tuple[str, Judgement]]:
        """What a batch has done that shows only afterwards."""
        found = [path.name for path in folder.iterdir()]
        judgements = []
        if set(found) != {"place", "outside.txt"}:
            judgements.append((kind.name, Judgement("outside", str(found))))
        if (folder / "outside.txt").read_text() != "not yours" or (folder / "place" / "CANARY").exists():
            detail = "the canary, or a file that is somebody else's, was touched"
            judgements.append((kind.name, Judgement("code", detail)))
        return judgements


def watched(child: Child, position: mmap.mmap) -> tuple[bool, int]:
    """Waits for the end; whether one input took too long, and which was the last."""
    before, waited = -1, 0.0
    while child.is_running(0.25):
        now = struct.unpack("q", position[:8])[0]
        before, waited = now, 0.0 if now != before else waited + 0.25
        if waited > _SECONDS:
            return True, now
    return False, struct.unpack("q", position[:8])[0]


def _batch(kind: Kind, index: int, start: int, count: int, position: mmap.mmap) -> list[tuple[int, str, str]]:
    """Tries inputs; returns those with a failure: number, verdict, detail."""
    failures: list[tuple[int, str, str]] = []
    events: list[tuple[str, str]] = []
    prepared, place = kind.prepare(), str(Path.cwd())
    sys.addaudithook(recorder(place, events))
    for number in range(start, count):
        position[:8] = struct.pack("q", number)
        source = random.Random(f"{kind.name} {index} {number}")
        events.clear()
        verdict = taken(lambda source=source: kind.attempt(source, prepared))  # type: ignore[misc]
        if events:
            verdict = events[0]
        if verdict is not None and len(failures) < _MOST_FAILURES * 10:
            failures.append((number, *verdict))
    return failures


def taken(attempt: Callable[[], object]) -> tuple[str, str] | None:
    """What is wrong with how an input was taken; None if nothing is."""
    from convmixer.errors import InputError

    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            attempt()
    except InputError as error:
        sentence = error.with_flags()
        return None if len(sentence) > 10 else ("no sentence", repr(sentence))
    except SystemExit as stop:
        if stop.code not in (None, 0, 2):
            return "undocumented status", f"exit status {stop.code}: {last_lines(err.getvalue())}"
    except BaseException:
        return "traceback", _shortly(sys.exc_info()[1])
    if "Traceback (most recent" in err.getvalue():
        return "traceback", last_lines(err.getvalue())
    return None


def _shortly(error: BaseException | None) -> str:
    """The exception, and the last place in the program that it came through."""
    frames = traceback.extract_tb(error.__traceback__ if error else None)
    own = [frame for frame in frames if "/convmixer/" in frame.filename] or frames
    where = f"{own[-1].filename.rpartition('/convmixer/')[2]}:{own[-1].lineno}" if own else "?"
    return f"{type(error).__name__} in {where}: {str(error)[:160]}"


def recorder(place: str, events: list[tuple[str, str]]) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook that notes what an input must not cause."""

    def outside(path: object) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        name = os.path.abspath(os.fsdecode(path))
        return not name.startswith((place, "/dev/null", "/proc/self"))

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments[:3]
            writing = isinstance(flags, int) and bool(flags & _WRITES)
            if writing and outside(path):
                events.append(("outside", f"opens {path!r} to write"))
        elif event in _CHANGES and outside(arguments[0]):
            events.append(("outside", f"{event} {arguments[0]!r}"))
        elif event in _CODE and "git" not in str(arguments[:2]):
            events.append(("code", f"{event} {arguments!r}"[:200]))
        elif event in _NETWORK:
            events.append(("outside", f"{event} {arguments!r}"[:200]))

    return hook
