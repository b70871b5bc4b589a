"""What stops a command: bad input, a refusal of the operating system, or a signal."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Iterable

_LONGEST_NAME = 200  # in a message
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


_AGAIN = "try again; --resume continues a run"
REFUSALS = {
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link leads to itself; remove it",
    errno.EACCES: "check the permissions, or choose another place",
    errno.EPERM: "check the permissions, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOSPC: f"make room and {_AGAIN}",
    errno.EDQUOT: f"make room and {_AGAIN}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f) and {_AGAIN}",
    errno.EIO: f"check the disk and {_AGAIN}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n) and {_AGAIN}",
    errno.ENFILE: f"close other programs and {_AGAIN}",
    errno.EISDIR: "a folder is where a file should be; move it away",
    errno.ENOENT: "it was removed meanwhile; put it back, or choose another place",
    errno.ENOTDIR: "a file is where a folder should be; move it away",
}
"""What the operating system refuses, by ``errno``, and what to do."""


def refusal(error: OSError) -> str:
    """The sentence for what the operating system refuses and people can change; '' for any other error."""
    if error.errno not in REFUSALS:
        return ""
    name = str(error.filename2 or error.filename or "")
    name = name if len(name) <= _LONGEST_NAME else f"{name[:100]}…{name[-50:]}"
    return f"{name}{': ' * bool(name)}{error.strerror}; {REFUSALS[error.errno]}."


def nearest(name: object, known: Iterable[object]) -> str:
    """A half sentence that offers the known name closest to ``name``, or all of them if none is close."""
    import difflib

    choices = [str(choice) for choice in known]
    close = difflib.get_close_matches(str(name), choices, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(choices)}."
