"""What stops a command: bad input, or a signal."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class InputError(Exception):
    """Something that the user gave and can mend: a flag, a file, a data set, a run directory.

    The message is one sentence that says what is wrong, where, and what to do. The command line prints it and
    exits with status 2; any other exception is ours and exits with status 1.
    """


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """SIGINT or SIGTERM arrived. What was done until then is in a checkpoint; the exit status is 128 + ``signum``."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def nearest(name: object, known: Iterable[object]) -> str:
    """A half sentence that offers the known name closest to ``name``, or all of them where none is close."""
    choices = [str(choice) for choice in known]
    close = difflib.get_close_matches(str(name), choices, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(choices)}."
