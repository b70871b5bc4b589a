"""What stops a command: bad input, or a signal."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)`")


class InputError(ValueError):
    """Something that the user gave and can correct: an argument, a file, a data set, a run directory.

    The message is one sentence that says what is wrong, where, and what to do. Arguments are named between backticks:
    ``str`` gives the names as Python has them (kernel_size), :meth:`with_flags` as the command line does
    (--kernel-size). The command line prints the sentence and exits with status 2; any other exception is a bug and
    exits with status 1.
    """

    def __str__(self) -> str:
        return _ARGUMENT.sub(r"\1", super().__str__())

    def with_flags(self) -> str:
        """The message for the command line."""
        return _ARGUMENT.sub(lambda match: "--" + match[1].replace("_", "-"), super().__str__())


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """SIGINT or SIGTERM arrived. What was done until then is in a checkpoint; the exit status is 128 + ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def nearest(name: object, known: Iterable[object]) -> str:
    """A half sentence that offers the known name closest to ``name``, or all of them if none is close."""
    import difflib

    choices = [str(choice) for choice in known]
    close = difflib.get_close_matches(str(name), choices, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(choices)}."
