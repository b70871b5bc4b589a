"""Dataclasses that are checked against their annotations, and JSON files read into them; msgspec does the conversion.

Ranges are annotations as well: ``Annotated[int, Meta(ge=1)]``. Every error is an InputError that names file and field.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from convmixer.errors import InputError, nearest
from convmixer.files import read_bytes

T = TypeVar("T")

_MOST_LETTERS = 60  # of a wrong value in a message
_UNLIMITED = 2**31 - 1  # as an upper limit: what no machine has room for

_deferred = contextvars.ContextVar("deferred", default=False)
_type_hints = functools.cache(functools.partial(typing.get_type_hints, include_extras=True))


class Checked:
    """A frozen dataclass that converts and checks its fields at construction; subclasses add what only they know.

    Raises:
        InputError: wrong type, value outside a field's choices or range, or what ``_problems`` reports.
    """

    def __post_init__(self) -> None:
        if _deferred.get():
            return
        for name, hint in _fields(type(self)).items():
            object.__setattr__(self, name, _converted(name, getattr(self, name), hint))
        for problem in self._problems():
            raise InputError(problem)

    def _problems(self) -> Iterator[str]:
        return iter(())


@contextlib.contextmanager
def deferred_checks() -> Iterator[None]:
    """Within the block, Checked instances are made without a check; :func:`checked` makes up for it."""
    token = _deferred.set(True)
    try:
        yield
    finally:
        _deferred.reset(token)


def checked(record: T) -> T:
    """A copy of a dataclass, and of the dataclasses in its fields, for which all checks have run."""
    parts = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}  # type: ignore[arg-type]
    nested = {name: checked(part) for name, part in parts.items() if dataclasses.is_dataclass(part)}
    return dataclasses.replace(record, **nested)  # type: ignore[type-var]


def build(cls: type[T], values: Any, where: str, *, others: bool = False) -> T:
    """Plain values, as JSON has them, as a dataclass; missing keys take their defaults.

    Args:
        cls: the dataclass; its fields may hold other dataclasses, tuples and dicts of them.
        values: mapping of the fields' names to values.
        where: what an error message begins with, such as the file's name.
        others: whether keys that the dataclass does not have are passed over.

    Raises:
        InputError: unknown key (with the nearest known one), missing key, wrong type or impossible value.
    """
    try:
        record = msgspec.convert(values, cls)
    except msgspec.ValidationError as error:
        raise InputError(_located(error, values, cls, where)) from None
    except (UnicodeError, RecursionError):
        raise InputError(f"{where}: has text that no file could hold, or values nested too deep; correct it.") from None
    for place, key, known in () if others else _unknown(values, msgspec.to_builtins(record)):
        raise InputError(f"{where}{place}: unknown key {key!r}; {nearest(key, sorted(known))}")
    return record


def read(cls: type[T], path: Path) -> T:
    """The JSON file ``path`` as a dataclass. Raises InputError as :func:`build` and :func:`read_json` do."""
    return build(cls, read_json(path), str(path))


def read_json(path: Path) -> Any:
    """The plain values in a JSON file: a regular file of at most 256 MiB, as :func:`parse_json` reads it.

    Raises:
        InputError: it is missing, cannot be read or is not such a file.
    """
    return parse_json(read_bytes(path), str(path))


def parse_json(content: bytes | str, where: str) -> Any:
    """The plain values that JSON text says; numbers are finite.

    Args:
        content: the text, as bytes in UTF-8.
        where: what an error message begins with, such as the file's name.

    Raises:
        InputError: not UTF-8, not JSON, NaN or infinity, or nested too deeply.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # bytes that are no text, numbers without an end, depth
        raise InputError(f"{where}: cannot be read as JSON ({error}).") from None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def scalar_type(hint: Any) -> type[bool | int | float | str] | None:
    """The scalar type that an annotation allows, with whatever else; choices are strings."""
    kinds = [kind for kind, _ in _options(hint)]
    if any(typing.get_origin(kind) is Literal for kind in kinds):
        return str
    return next((kind for kind in (bool, int, float, str) if kind in kinds), None)


def _fields(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields."""
    hints = _type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def _options(hint: Any) -> list[tuple[Any, msgspec.Meta]]:
    """The types that an annotation allows, each with its limits."""
    if typing.get_origin(hint) is Annotated:
        inner, *extras = typing.get_args(hint)
        limits = next((extra for extra in extras if isinstance(extra, msgspec.Meta)), msgspec.Meta())
        return [(kind, limits) for kind, _ in _options(inner)]
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return [option for part in typing.get_args(hint) for option in _options(part)]
    return [(hint, msgspec.Meta())]


def _converted(name: str, value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(hint) and not isinstance(value, hint):  # type: ignore[arg-type]
        raise InputError(f"{name}: expected a {getattr(hint, '__name__', hint)}, got {value!r}.")
    try:
        result = msgspec.convert(value, hint)
    except msgspec.ValidationError:
        raise InputError(_complaint(f"`{name}`", value, hint)) from None
    except UnicodeError:
        raise InputError(f"`{name}`: {_short(value)} has characters that are no text; correct it.") from None
    if isinstance(result, str) and "\0" in result:
        raise InputError(f"`{name}`: {_short(value)} has a NUL character; remove it.")
    if isinstance(result, float) and not math.isfinite(result):
        raise InputError(_complaint(f"`{name}`", value, hint))
    return result


def _complaint(name: str, value: Any, hint: Any) -> str:
    """What is wrong with a value that its annotation does not allow."""
    options = [(kind, limits) for kind, limits in _options(hint) if kind is not type(None)]
    for kind, limits in options:
        if typing.get_origin(kind) is Literal:
            return f"{name}: {value!r} is not one of its values; {nearest(value, typing.get_args(kind))}"
        if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
            element = typing.get_args(kind)[0]
            return next((_complaint(name, item, element) for item in value if not _allowed(item, element)), name)
        if (kind in (int, float) and type(value) is kind) or (kind is float and type(value) is int):
            return f"{name}: {_short(value)} is out of range; give {_range(kind, limits, value)}."
    expected = " or ".join(dict.fromkeys(_spoken(kind) for kind, _ in options))
    return f"{name}: expected {expected}, got {_short(value)}."


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"


def _allowed(value: Any, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _range(kind: type, limits: msgspec.Meta, value: float) -> str:
    if limits.lt is not None:
        return f"a value from {limits.ge} up to, not including, {limits.lt}"
    if limits.le is not None and (limits.le < _UNLIMITED or value > limits.le):
        return f"a value from {limits.ge} to {limits.le}"
    least = f" above {limits.gt}" if limits.gt is not None else f" of at least {limits.ge}"
    return f"a {'finite ' * (kind is float)}value" + least * (limits.ge is not None or limits.gt is not None)


def _spoken(kind: Any) -> str:
    return "several values" if typing.get_origin(kind) is tuple else str(getattr(kind, "__name__", kind))


def _located(error: msgspec.ValidationError, values: Any, cls: Any, where: str) -> str:
    """The sentence for msgspec's error: the place in the values, and what is wrong with the value there."""
    text, _, path = str(error).partition(" - at `$")
    hint, value = cls, values
    *steps, last = re.findall(r"\.([^.\[`]+)|\[(\d+|\.{3})\]", path) or [("", "")]
    place = where
    for name, index in [*steps, last] if path else []:
        if index == "...":  # a value of a mapping; msgspec does not say which
            return f"{place}: {text} in one of its values."
        place += f".{name}" if name else f"[{index}]"
        value = value[name] if name else value[int(index)]
        kinds = [kind for kind, _ in _options(hint)]
        if name:
            owner = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
            hint = _fields(owner)[name] if isinstance(owner, type) else Any
        else:
            hint = next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is tuple), Any)
    if isinstance(error.__cause__, InputError):  # from __post_init__, which knows better
        return f"{place}: {error.__cause__}"
    if dataclasses.is_dataclass(hint) and not isinstance(value, dict):
        return f"{place}: expected an object with the fields of {getattr(hint, '__name__', '')}, got {value!r}."
    if missing := re.search(r"missing required field `(\w+)`", text):
        return f"{place}: has no {missing[1]}."
    return f"{place}: {text}, got {value!r}." if hint is Any else _complaint(place, value, hint)


def _unknown(values: Any, known: Any, place: str = "") -> Iterator[tuple[str, str, list[str]]]:
    """Keys of ``values`` that the record made from them does not have: place, key, known keys."""
    if isinstance(values, dict) and isinstance(known, dict):
        for key, value in values.items():
            if key not in known:
                yield place, key, list(known)
            yield from _unknown(value, known.get(key), f"{place}.{key}")
    elif isinstance(values, (list, tuple)) and isinstance(known, (list, tuple)):
        for index, (value, other) in enumerate(zip(values, known, strict=False)):
            yield from _unknown(value, other, f"{place}[{index}]")
