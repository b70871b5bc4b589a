"""Numbers as text, written the same way wherever they are shown: terminal, page, Markdown, figures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # numpy, which the command line does without until it computes
    from convmixer.utils.comparisons import MeanInterval

NOTHING = "–"
"""Stands for a number that does not exist."""


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as a percentage: 0.9224 → 92.24%."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}%"


def points(value: float) -> str:
    """A difference of two accuracies in percentage points: +0.81."""
    text = f"{100 * value:+.2f}".replace("-", "−")
    return "0.00" if text[1:] == "0.00" else text


def half_width(value: float | None) -> str:
    """Half of a 95% interval, in percentage points: " ± 0.31"; empty if there is no interval."""
    return "" if value is None else f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{100 * value:.2f}"


def mean_accuracy(interval: MeanInterval | None) -> str:
    """A mean over seeds with its 95% interval: 92.24 ± 0.31%.

    An interval that would reach beyond 0 or 100% is given by its ends, cut there: 98.90% (97.4 to 100). One seed has no
    interval, and two that are far apart, or equal by chance, none that says anything: 84.54% (2 seeds).
    """
    if interval is None:
        return NOTHING
    half = interval.half_width
    if half is None:
        return percent(interval.mean)
    if not interval.informative:
        return f"{percent(interval.mean)} ({plural(interval.n, 'seed')})"
    low, high = interval.mean - half, interval.mean + half
    if low >= 0 and high <= 1:
        return f"{100 * interval.mean:.2f}{half_width(half)}%"
    return f"{percent(interval.mean)} ({_ends(max(low, 0.0), min(high, 1.0))})"


def accuracy(value: float | None, images: int | None) -> str:
    """The accuracy of one run on ``images`` images with its 95% Wilson interval: 94.44% (74.2 to 99.0)."""
    from convmixer.utils.comparisons import accuracy_interval

    if value is None or not images:
        return percent(value)
    return f"{percent(value)} ({_ends(*accuracy_interval(round(value * images), images))})"


def _ends(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}".replace("100.0", "100")


def duration(value: float | None) -> str:
    """Seconds with three digits: 32.6 s."""
    return NOTHING if value is None else f"{value:{'.3g' if value < 1000 else ',.0f'}}\N{NO-BREAK SPACE}s"


def count(value: int | None) -> str:
    """594,186."""
    return NOTHING if value is None else f"{value:,}"


def number(value: Any) -> str:
    """A setting: floats with four digits, a list as 9,9,5,5, on or off, a dash for none."""
    if value is None:
        return NOTHING
    if isinstance(value, list | tuple):
        return ",".join(map(number, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def settings(values: Mapping[str, Any]) -> str:
    """Names and values of settings: lr 0.01, batch_size 64."""
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def plural(n: int, noun: str) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{n} {noun}{'s' if n != 1 else ''}"


def shown_command(words: Sequence[str] | None) -> str | None:
    """A recorded command as one would type it: the program by its name, whatever folder it lay in."""
    if not words:
        return None
    program = "convmixer" if Path(words[0]).name == "__main__.py" else Path(words[0]).name
    return shlex.join([program, *map(str, words[1:])])
