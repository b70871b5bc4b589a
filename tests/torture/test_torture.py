"""The judge finds planted failures, and a slice of each area finds none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.torture.guided import Bytes
from tests.torture.inputs import recorder, taken
from tests.torture.judge import of_end, of_reading, of_refusal, of_resumption
from tests.torture.leaks import _judge
from tests.torture.sandbox import Ended, run


def ended(status: int | None = 0, err: str = "", **changes: Any) -> Ended:
    return Ended(**{"status": status, "signum": None, "hung": False, "out": "", "err": err, "seconds": 1.0, **changes})


def child(work: Any, tmp_path: Path, timeout: float = 20) -> Ended:
    return run(work, tmp_path, timeout)


def test_planted_ends_are_failures_of_their_kind(tmp_path: Path) -> None:
    def crash() -> None:
        raise RuntimeError("planted")

    def abort() -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def hang() -> None:
        signal.pause()

    found = [of_end(child(work, tmp_path, 0.5)) for work in (crash, abort, hang, lambda: sys.exit(7))]
    assert [judgement and judgement.verdict for judgement in found] == [
        "traceback",
        "signal",
        "hang",
        "undocumented status",
    ]
    assert of_end(child(lambda: sys.exit(0), tmp_path)) is None
    assert of_end(ended(None, signum=9), killed=True) is None
    assert of_end(ended(None, signum=11), killed=True) is not None


def test_another_answer_without_a_word_is_silent() -> None:
    def verdict(end: Ended, answer: Any) -> str:
        return of_reading(end, answer, {"accuracy": 0.5}, {"known line"}, {"summary.json"}).verdict

    assert verdict(ended(), {"accuracy": 0.5}) == "identical"
    assert verdict(ended(err="known line"), {"accuracy": 0.6}) == "silent"
    assert verdict(ended(err="a new line about nothing"), {"accuracy": 0.6}) == "silent"
    assert verdict(ended(err="summary.json: is damaged"), {"accuracy": 0.6}) == "said"
    assert verdict(ended(2, "convmixer: summary.json: is damaged."), None) == "refused"
    assert verdict(ended(2, ""), None) == "no sentence"


def test_a_refusal_is_one_sentence() -> None:
    assert of_refusal(ended(2, "convmixer: no space left; make room.")).verdict == "refused"
    assert of_refusal(ended(0)).verdict == "undocumented status"
    assert of_refusal(ended(2, "oh no, an error")).verdict == "no sentence"
    assert of_refusal(ended(2, 'convmixer: x\n  File "y.py", line 3\n')).verdict == "traceback"


def test_a_differing_byte_after_a_resumption_is_found() -> None:
    killed, good = ended(None, signum=9), ended()
    assert of_resumption(killed, good, {"model": "a"}, {"model": "a"}).verdict == "identical"
    assert of_resumption(killed, good, {"model": "b"}, {"model": "a"}).verdict == "differs"
    assert of_resumption(killed, good, {"model": "a", ".x.tmp": "b"}, {"model": "a"}).verdict == "differs"
    assert of_resumption(killed, ended(1), {"model": "a"}, {"model": "a"}).verdict == "differs"


def test_growth_is_a_leak() -> None:
    flat = [{"rss": 1 << 28, "descriptors": 7, "threads": 2}] * 2
    assert _judge(flat).verdict == "identical"
    assert all(_judge([flat[0], {**flat[0], name: (1 << 28) + (9 << 20)}]).verdict == "leak" for name in flat[0])
    assert _judge([]).verdict == "leak"


def test_what_an_input_must_not_do_is_seen(tmp_path: Path) -> None:
    def planted() -> list[tuple[str, str]]:
        events: list[tuple[str, str]] = []
        sys.addaudithook(recorder(str(tmp_path), events))
        (tmp_path / "inside").write_text("allowed")
        assert not events
        with open("/dev/shm/convmixer-planted", "w"):
            pass
        os.unlink("/dev/shm/convmixer-planted")
        os.system("true")
        return events

    verdicts = [verdict for verdict, _ in child(planted, tmp_path).value]
    assert verdicts == ["outside", "outside", "code"]
    assert taken(lambda: {}["planted"])[0] == "traceback"
    assert taken(lambda: sys.exit(3))[0] == "undocumented status"
    assert taken(lambda: sys.exit(2)) is None


def test_a_fuzzers_bytes_are_the_random_numbers() -> None:
    def made(content: bytes) -> list[object]:
        source = Bytes(content)
        return [source.choice("abc"), source.random(), source.randrange(1000), source.randbytes(4)]

    assert made(b"\1\0\x80\2\3wxyz") == ["b", 0.5, 770, b"wxyz"]
    assert made(b"") == made(b"")
    assert made(b"\1") != made(b"\2")


@pytest.mark.slow
def test_a_slice_of_the_kills_is_survived(tmp_path: Path, repository: Path) -> None:
    areas = ("--area", "kills", "--most", "4", "--minutes", "1", "--out", str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.torture", *areas]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "torture.json").read_text())
    assert [area["tried"] for area in record["areas"]] == [4]
