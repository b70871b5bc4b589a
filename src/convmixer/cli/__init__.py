"""The command line: parse, call one function, print.

Figures go to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed, 2 bad input, 130 and 143
interrupted by SIGINT and SIGTERM.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from convmixer.cli.commands import COMMANDS, command_named
from convmixer.cli.defaults import run_defaults
from convmixer.cli.help import command_help, overview
from convmixer.cli.output import ERRORS
from convmixer.cli.parsing import RULES, current_flag
from convmixer.errors import InputError, Interrupted, nearest, refusal
from convmixer.records import checked, deferred_checks
from convmixer.runtime.memory import enough_memory
from convmixer.runtime.signals import command as interruptible
from convmixer.version import __version__

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line, ``sys.argv`` by default, and exits."""
    logger = logging.getLogger("convmixer")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Messages()]
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(exit_status(lambda: _run(given)))


def _run(arguments: list[str]) -> int:
    if (answered := _without_command(arguments)) is not None:
        return answered
    command, name = _parse(arguments), arguments[0]
    with enough_memory(f"convmixer {name}", COMMANDS[name].less_memory):
        status: int = command.execute()
    return status


def exit_status(work: Callable[[], int]) -> int:
    """The exit status of a command that ``work`` carries out; says on stderr what stopped it."""
    try:
        return interruptible(work)
    except InputError as error:
        return _refused(error.with_flags())
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever reads our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if not (sentence := refusal(error)):
            raise
        return _refused(sentence)
    except Interrupted as stop:
        ERRORS.print("Interrupted; the checkpoint is written, --resume continues.")
        return 128 + stop.signum


def _refused(sentence: str) -> int:
    with contextlib.suppress(OSError):  # the messages may go to the disk that is full
        ERRORS.print(f"convmixer: {sentence}", style="red")
    return 2


class _Messages(logging.Handler):
    """Prints what the library logs, such as that kernels are compiled, among the other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        ERRORS.print(record.getMessage())


def _parse(arguments: list[str]) -> Any:
    """The command, as an object with its arguments."""
    name, *rest = [current_flag(argument) for argument in arguments]
    command = command_named(name)
    options: dict[str, Any] = {}
    if name in ("train", "grid-search"):
        run, fits = run_defaults(rest)
        options = {"default": command.load()(run=run, fits_batch=fits)}
    elif name == "data":
        options = {"default": command.load().defaults(rest)}
    options |= {"prog": f"convmixer {name}", "config": (tyro.conf.FlagCreatePairsOff,), "registry": RULES}
    # tyro prints a ValueError from a constructor in a box of its own: the checks come after it.
    with deferred_checks():
        if {"-h", "--help"} & set(rest):
            print(command_help(name, command, _parser(command.load(), options)))
            sys.exit(0)
        parsed = tyro.cli(command.load(), args=rest, **options)
    return checked(parsed)


def _parser(command: Any, options: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # nothing else in tyro says what the options are
        parser: Any = tyro.extras.get_parser(command, **options)
    return parser


def _without_command(arguments: list[str]) -> int | None:
    """Answers a command line without a command; None if it has one."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
    elif arguments[0] in ("--version", "-V"):
        print(f"convmixer {__version__}")
    elif arguments[0] == "--completion":
        shells = ("bash", "zsh", "tcsh")
        if arguments[1:2] == [] or arguments[1] not in shells:
            raise InputError(f"--completion: takes the name of a shell; choose from {', '.join(shells)}.")
        every: Any = functools.reduce(
            operator.or_,
            (Annotated[c.load(), tyro.conf.subcommand(name)] for name, c in COMMANDS.items()),
        )
        with deferred_checks():  # defaults alone are no command
            tyro.cli(every, args=["--tyro-print-completion", arguments[1]], prog="convmixer", registry=RULES)
    elif arguments[0].startswith("-"):
        flag = arguments[0]
        if len(arguments) == 1 and (hint := nearest(flag, ("--help", "--version", "--completion"))).startswith("did"):
            raise InputError(f"{flag} is no command; {hint}")
        raise InputError(f"{flag} is no command; give one first, as in convmixer train {flag}.")
    else:
        return None
    return 0
