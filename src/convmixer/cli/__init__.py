"""The command line: parse, call one function, print.

Figures go to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed, 2 bad input, 130 and 143
interrupted by SIGINT and SIGTERM.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from convmixer.cli.data import Data
from convmixer.cli.output import ERRORS
from convmixer.cli.parsing import RULES, current_flag
from convmixer.cli.search import GridSearch
from convmixer.cli.study import Experiment, Report
from convmixer.cli.tools import Bench, Models
from convmixer.cli.train import Train
from convmixer.cli.use import Evaluate, Predict
from convmixer.config import RunConfig
from convmixer.errors import InputError, Interrupted
from convmixer.presets import run_config
from convmixer.records import checked, deferred_checks, read_json

__all__ = ["main"]

_DESCRIPTION = "Train, evaluate and use ConvMixer image classifiers. Every command has its own --help."


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line, ``sys.argv`` by default, and exits."""
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    logger = logging.getLogger("convmixer")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Messages()]
    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    try:
        command = _parse(arguments)
        status: int = command.execute()
        return status
    except InputError as error:
        ERRORS.print(f"convmixer: {error.with_flags()}", style="red")
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever reads our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Interrupted as stop:
        ERRORS.print("Interrupted; the checkpoint is written, --resume continues.")
        return 128 + stop.signum


class _Messages(logging.Handler):
    """Prints what the library logs, such as that kernels are compiled, among the other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        ERRORS.print(record.getMessage())


def _parse(arguments: list[str]) -> Any:
    arguments = [current_flag(argument) for argument in arguments]
    options: dict[str, Any] = {"default": _train_defaults(arguments[1:])} if arguments[:1] == ["train"] else {}
    search_options: dict[str, Any] = {}
    if arguments[:1] == ["grid-search"]:
        base = _train_defaults(arguments[1:])
        search_options = {"default": GridSearch(run=base.run, fits_batch=base.fits_batch)}
    inspects = arguments[:1] == ["data"]
    data_options: dict[str, Any] = {"default": Data.defaults(arguments[1:])} if inspects else {}
    commands: Any = (
        Annotated[Train, tyro.conf.subcommand("train", **options)]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Predict, tyro.conf.subcommand("predict")]
        | Annotated[Experiment, tyro.conf.subcommand("experiment")]
        | Annotated[GridSearch, tyro.conf.subcommand("grid-search", **search_options)]
        | Annotated[Models, tyro.conf.subcommand("models")]
        | Annotated[Data, tyro.conf.subcommand("data", **data_options)]
        | Annotated[Bench, tyro.conf.subcommand("bench")]
        | Annotated[Report, tyro.conf.subcommand("report")]
    )
    style = (tyro.conf.FlagCreatePairsOff,)
    # tyro prints a ValueError from a constructor in a box of its own: the checks come after it.
    with deferred_checks():
        command = tyro.cli(
            commands, args=arguments, prog="convmixer", description=_DESCRIPTION, config=style, registry=RULES
        )
    return checked(command)


def _train_defaults(arguments: list[str]) -> Train:
    """What the flags that choose defaults say: --model and --recipe, or --config, or a run to resume or start from."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--model", "--recipe", "--config", "--out", "--init-from", "--dataset"):
        parser.add_argument(name)
    parser.add_argument("--batch-size", "--batch_size")
    parser.add_argument("--resume", action="store_true")
    try:
        chosen, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return Train()  # a flag without its value: the real parser says so
    if chosen.config and (chosen.model or chosen.recipe):
        raise InputError("`config`: takes the place of `model` and `recipe`; give it or them.")
    file = Path(chosen.config) if chosen.config else None
    if file is None and chosen.resume and chosen.out and (Path(chosen.out) / "config.json").is_file():
        file = Path(chosen.out) / "config.json"
    if file is None:
        given = {name: getattr(chosen, name) for name in ("init_from", "dataset") if getattr(chosen, name)}
        run = run_config(chosen.model, chosen.recipe or "baseline", **given)
        return Train(run=run, fits_batch=chosen.batch_size is None)
    return Train(run=RunConfig.from_dict(read_json(file), where=str(file)))
