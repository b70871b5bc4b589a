"""What counts as a failure, and of which kind. Tested with planted failures: a judge that cannot fail is worthless."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from tests.torture.sandbox import Ended

Verdict = Literal[
    "identical", "said", "refused",  # survived
    "silent", "traceback", "signal", "hang", "no sentence", "undocumented status", "differs", "outside", "code", "leak",
]  # fmt: skip
SURVIVED: tuple[Verdict, ...] = ("identical", "said", "refused")
DOCUMENTED = (0, 1, 2, 130, 143)
_SENTENCE = re.compile(r"^convmixer: .{10,}", re.MULTILINE)
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|^\s+File \".*\", line \d+", re.MULTILINE)


@dataclass(frozen=True)
class Judgement:
    """A verdict, and what shows it."""

    verdict: Verdict
    detail: str = ""

    @property
    def survived(self) -> bool:
        """Whether this is as it should be."""
        return self.verdict in SURVIVED


def of_end(ended: Ended, *, killed: bool = False) -> Judgement | None:
    """What a child's end alone shows to be a failure; None if that is nothing.

    Args:
        ended: how it ended.
        killed: whether SIGKILL is how it was meant to end.
    """
    if ended.hung:
        return Judgement("hang", f"still running after {ended.seconds:.0f} s: {last_lines(ended.err)}")
    if _TRACEBACK.search(ended.err) or _TRACEBACK.search(ended.out):
        return Judgement("traceback", last_lines(ended.err or ended.out))
    if ended.signum is not None and not (killed and ended.signum == 9):
        return Judgement("signal", f"ended by signal {ended.signum}: {last_lines(ended.err)}")
    if ended.status is not None and ended.status not in DOCUMENTED:
        return Judgement("undocumented status", f"exit status {ended.status}: {last_lines(ended.err)}")
    if ended.status == 2 and not _SENTENCE.search(ended.err) and not ended.err.strip():
        return Judgement("no sentence", "exit status 2 and nothing on stderr")
    return None


def of_refusal(ended: Ended) -> Judgement:
    """Judges a child that was to be refused: status 2 and one sentence."""
    if failure := of_end(ended):
        return failure
    if ended.status != 2:
        return Judgement("undocumented status", f"exit status {ended.status} instead of 2: {last_lines(ended.err)}")
    if len(_SENTENCE.findall(ended.err)) != 1:
        return Judgement("no sentence", last_lines(ended.err))
    return Judgement("refused", last_lines(ended.err, 1))


def of_reading(ended: Ended, essence: Any, undamaged: Any, known_lines: set[str], names: set[str]) -> Judgement:
    """Judges a command that read a damaged directory.

    Args:
        ended: how it ended.
        essence: what it answered, without what differs from one time to the next.
        undamaged: what it answers when nothing is damaged.
        known_lines: what it says on stderr when nothing is damaged.
        names: a remark counts as one on the damage if it has one of these: the file, its run.
    """
    if failure := of_end(ended):
        return failure
    new = [line for line in ended.err.splitlines() if line.strip() and line not in known_lines]
    remarks = [line for line in new if any(name in line for name in names)]
    if ended.status == 2:
        if remarks or _SENTENCE.search(ended.err):
            return Judgement("refused", (remarks or new)[-1][:300])
        return Judgement("no sentence", last_lines(ended.err))
    if ended.status == 1 and not new:
        return Judgement("no sentence", "exit status 1 and nothing said")
    if essence == undamaged:
        return Judgement("identical")
    if remarks:
        return Judgement("said", remarks[-1][:300])
    return Judgement("silent", difference(undamaged, essence))


def of_resumption(first: Ended, last: Ended, result: Any, undisturbed: Any, *, killed: bool = True) -> Judgement:
    """Judges a run that was ended and resumed, by what it has left."""
    for ended in (first, last):
        if failure := of_end(ended, killed=killed and ended is first):
            return failure
    if last.status != 0:
        return Judgement("differs", f"the resumption ended with status {last.status}: {last_lines(last.err)}")
    if result != undisturbed:
        return Judgement("differs", difference(undisturbed, result))
    return Judgement("identical")


def difference(expected: Any, found: Any, place: str = "") -> str:
    """The first place in which two nested values differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            if key not in found or key not in expected:
                return f"{place}.{key} is {'missing' if key not in found else 'new'}"
            if expected[key] != found[key]:
                return difference(expected[key], found[key], f"{place}.{key}")
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            if one != other:
                return difference(one, other, f"{place}[{index}]")
    return f"{place or 'answer'}: {str(found)[:120]} instead of {str(expected)[:120]}"


def last_lines(text: str, count: int = 4) -> str:
    """The end of a text, short."""
    return " / ".join(line.strip() for line in text.strip().splitlines()[-count:])[-500:]
