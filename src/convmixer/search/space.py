"""What a search varies: fields of a run's configuration, and the values that each may take."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self

import msgspec

from convmixer.config import Count, Positive, RunConfig, field_owners, sections
from convmixer.errors import InputError, nearest
from convmixer.presets import run_config
from convmixer.records import Checked, scalar_type

Sampler = Literal["grid", "tpe", "random"]
Pruner = Literal["none", "median", "halving"]
Number = int | float
Value = int | float | bool | str
Values = dict[str, Any]
"""A point of the space: a value for every searched field."""

SHORT = {"wd": "weight_decay", "bs": "batch_size", "hidden_dim": "dim"}
"""Short names of fields, here and as flags."""
_JUDGES = ("seed", "split_seed", "val_fraction", "test_fraction", "dataset", "protocol")  # what runs are judged by
_KINDS: Mapping[type[Value], str] = {int: "whole numbers", float: "numbers", str: "names", bool: "true or false"}
_DEFAULT_GRID = {"lr": "0.001,0.01,0.1", "weight_decay": "0.0001,0.001,0.01", "batch_size": "64,128,256"}
_DEFAULT_RANGES = {**_DEFAULT_GRID, "lr": "0.001..0.1:log", "weight_decay": "0.0001..0.01:log"}
_DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class Choice:
    """A field and the values listed for it."""

    name: str
    values: tuple[Value, ...]

    def contains(self, value: object) -> bool:
        """Whether ``value`` is one of them."""
        return value in self.values

    def ends(self) -> tuple[Value, ...]:
        """Values that have to be possible if all are to be."""
        return self.values

    def to_json(self) -> list[Value]:
        """The list."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """A field and the interval that its values are drawn from, evenly or evenly on a logarithmic scale."""

    name: str
    low: Number
    high: Number
    log: bool

    def contains(self, value: object) -> bool:
        """Whether ``value`` lies within."""
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def ends(self) -> tuple[Number, ...]:
        """Values that have to be possible if all are to be."""
        return self.low, self.high

    def to_json(self) -> dict[str, Any]:
        """``{"low": …, "high": …, "log": …}``."""
        return {"low": self.low, "high": self.high, "log": self.log}


Dimension = Choice | Range


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Checked):
    """What a search varies, and how."""

    search_space: str | None = None
    """Fields to vary, with commas between them: anything in a run's configuration that decides its result (wd is short
    for weight_decay). By default those that --values names, else lr,wd,batch_size, the study's grid."""
    values: tuple[str, ...] = ()
    """Values of a field: lr=0.001,0.01,0.1 or optimizer=adamw,sgd; for --sampler tpe and random also a range,
    lr=0.001..0.1:log. May be given several times."""
    sampler: Sampler = "grid"
    """grid (every combination of the values), tpe (tree-structured Parzen estimator) or random."""
    trials: Positive | None = None
    """Combinations to try with --sampler tpe or random; 20 by default."""
    pruner: Pruner = "none"
    """Ends a run early, by its validation accuracy after each epoch: median (below the median of the others) or halving
    (not among the best that reached this epoch, arXiv 1810.05934)."""
    trial_seeds: Positive = 1
    """Runs of each combination, with consecutive seeds; combinations are compared by their mean."""
    seeds: Count = 3
    """Runs of the best combination, with consecutive seeds. Only these read the test set."""
    workers: Positive = 1
    """Processes that train at the same time, spread over all GPUs; several small runs make better use of one GPU."""
    storage: str | None = None
    """Where Optuna keeps the trials of --sampler tpe and of pruners: a file in --out by default;
    postgresql://user@host/database for several machines, which share --out as well."""

    def _problems(self) -> Iterator[str]:
        if self.sampler == "grid" and self.trials is not None:
            yield "`trials`: a grid tries every combination; leave it out, or choose `sampler` tpe or random."
        if self.storage is not None and not self.is_adaptive:
            yield "`storage`: only `sampler` tpe and pruners need one; leave it out, processes share the work anyway."
        self.space()

    @property
    def is_adaptive(self) -> bool:
        """Whether points, or the lengths of runs, depend on results."""
        return self.sampler == "tpe" or self.pruner != "none"

    def space(self) -> tuple[Dimension, ...]:
        """The searched fields with their values. Raises InputError if they are unknown, or have impossible values."""
        given = dict(_split(text) for text in self.values)
        if self.search_space is None:
            names = list(given or _DEFAULT_GRID)
        else:
            names = [_field_name(name, "`search_space`") for name in self.search_space.split(",")]
        if len(set(names)) < len(names) or len(given) < len(self.values):
            raise InputError("`search_space`: a field is named twice; name each once.")
        for name in given:
            if name not in names:
                raise InputError(f"`values`: {name} is not searched; add it to `search_space` {self.search_space}.")
        defaults = _DEFAULT_GRID if self.sampler == "grid" else _DEFAULT_RANGES
        for name in names:
            if name not in given and name not in defaults:
                raise InputError(f"`values`: says nothing of {name}; add, for example, `values` {name}=1,2,4.")
        space = tuple(_dimension(name, given.get(name, defaults.get(name, ""))) for name in names)
        for dimension in space:
            if self.sampler == "grid" and isinstance(dimension, Range):
                raise InputError(
                    f"`values`: {dimension.name} is a range, and a grid needs a list such as {dimension.name}="
                    f"{dimension.low},{dimension.high}; or choose `sampler` tpe or random."
                )
        return space

    def grid(self) -> list[Values]:
        """Every combination of a grid, the last field varying fastest; nothing for samplers."""
        if self.sampler != "grid":
            return []
        space = [dimension for dimension in self.space() if isinstance(dimension, Choice)]
        combinations = itertools.product(*(dimension.values for dimension in space))
        return [dict(zip((d.name for d in space), values, strict=True)) for values in combinations]

    def count(self) -> int:
        """How many combinations there are to try."""
        return len(self.grid()) if self.sampler == "grid" else self.trials or _DEFAULT_TRIALS

    def check(self, base: RunConfig) -> Self:
        """These settings, if they can vary ``base``.

        Raises:
            InputError: a value that a run cannot have, or no held-out images to choose by.
        """
        if base.protocol == "original" or base.data.val_fraction == 0:
            raise InputError(
                "grid-search: chooses by the accuracy on held-out training images; "
                "give `protocol` validation and a `val_fraction` above 0."
            )
        for values in self.grid():
            with_values(base, values)
        for dimension in self.space():
            for value in dimension.ends():
                with_values(base, {dimension.name: value})
        return self


def _split(text: str) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise InputError(f"`values`: {text!r} does not say which values; write it as lr=0.001,0.01,0.1.")
    return _field_name(name, "`values`"), values


@functools.cache
def searchable() -> dict[str, type[Value]]:
    """The fields that can be searched, and the type of their values."""
    owners: tuple[type, ...] = (RunConfig, *(typing.get_type_hints(RunConfig)[name] for name in sections()))
    return {
        item.name: kind
        for owner in owners
        for item in dataclasses.fields(owner)
        if (kind := scalar_type(typing.get_type_hints(owner)[item.name]))
        and item.metadata.get("identity", True)
        and item.name not in _JUDGES
    }


def _field_name(text: str, flag: str) -> str:
    name = text.strip().replace("-", "_")
    name = SHORT.get(name, name)
    known = searchable()
    if name in _JUDGES:
        raise InputError(f"{flag}: {name} decides what the runs are judged by, so they cannot be compared over it.")
    if name not in known:
        raise InputError(f"{flag}: {name!r} is not a field of a run's configuration; {nearest(name, known)}")
    return name


def _dimension(name: str, text: str) -> Dimension:
    """What ``text`` (1,2,4 or 1..4 or 1..4:log) says of a field."""
    low, dots, rest = text.partition("..")
    if not dots:
        values = tuple(_value(name, part) for part in text.split(","))
        if len(set(values)) < len(values):
            raise InputError(f"`values`: {name}={text} names a value twice; name each once.")
        return Choice(name, values)
    high, colon, scale = rest.partition(":")
    if colon and scale != "log":
        raise InputError(f"`values`: {name}={text} ends in {scale!r}; only :log can follow a range.")
    limits = _limit(name, low), _limit(name, high)
    if limits[0] >= limits[1] or (colon and limits[0] <= 0):
        above = " above 0" if colon else ""
        raise InputError(
            f"`values`: {name}={text} is empty; a range goes from a smaller number{above} to a larger one."
        )
    return Range(name, *limits, log=bool(colon))


def _limit(name: str, text: str) -> Number:
    value = _value(name, text)
    if isinstance(value, (bool, str)):
        raise InputError(f"`values`: {name} has no range, as it takes no numbers; list its values.")
    return value


def _value(name: str, text: str) -> Value:
    kind = searchable()[name]
    with suppress(msgspec.ValidationError):
        value: Value = msgspec.convert(text.strip(), kind, strict=False)
        if value != "" and (kind is not float or math.isfinite(value)):  # type: ignore[arg-type]
            return value
    raise InputError(f"`values`: {name} takes {_KINDS[kind]}, not {text.strip()!r}.")


def with_values(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """``base`` with some fields changed; a new model or recipe replaces the defaults of the old one.

    Raises:
        InputError: an impossible value.
    """
    model, recipe = values.get("model", base.model), values.get("recipe", base.recipe)
    if (model, recipe) == (base.model, base.recipe):
        return base.replace(**values)
    defaults = _flat(run_config(base.model, base.recipe))
    chosen = {name: value for name, value in _flat(base).items() if value != defaults[name]}
    return run_config(**{**chosen, **values, "model": model, "recipe": recipe})


def _flat(config: RunConfig) -> dict[str, Any]:
    return {name: getattr(getattr(config, owner) if owner else config, name) for name, owner in field_owners().items()}
