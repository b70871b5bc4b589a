"""The flags that choose other flags' defaults, which are read before all others: --recipe, --config and their like."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convmixer.config import RunConfig, field_owners, sections
from convmixer.errors import InputError
from convmixer.manifest import read_record
from convmixer.presets import run_config
from convmixer.records import read_json


def run_defaults(arguments: Sequence[str]) -> tuple[RunConfig, bool]:
    """The run that flags are changes of, and whether its batch size may be made to fit the data.

    It comes from --model and --recipe, from --config, or from the run to resume or start from.

    Raises:
        InputError: a file or a name that does not exist, or flags that exclude each other.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--model", "--recipe", "--config", "--out", "--init-from", "--dataset"):
        parser.add_argument(name)
    parser.add_argument("--batch-size", "--batch_size")
    parser.add_argument("--resume", action="store_true")
    try:
        chosen, _ = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError:
        return run_config(), False  # a flag without its value: the real parser says so
    if chosen.config and (chosen.model or chosen.recipe):
        raise InputError("`config`: takes the place of `model` and `recipe`; give it or them.")
    file = Path(chosen.config) if chosen.config else None
    if file is None and chosen.resume and chosen.out and (Path(chosen.out) / "config.json").is_file():
        file = Path(chosen.out)
    if file is not None:
        config, fits = read_config(file)
        return config, fits and chosen.batch_size is None
    given = {name: getattr(chosen, name) for name in ("init_from", "dataset") if getattr(chosen, name)}
    return run_config(chosen.model, chosen.recipe or "baseline", **given), chosen.batch_size is None


def read_config(path: Path) -> tuple[RunConfig, bool]:
    """A run's configuration from a JSON or YAML file, or from a run directory.

    A file that names a few fields, in their sections or without them, gives changes of its ``model`` and ``recipe``.

    Returns:
        The configuration, and whether its batch size is the recipe's.

    Raises:
        InputError: no such file, a file of another kind, an unknown field or an impossible value.
    """
    file = path / "config.json" if path.is_dir() else path
    read_record(file)  # a run's own is what was written, or refused
    values = _read_yaml(file) if file.suffix.lower() in (".yaml", ".yml") else read_json(file)
    if not (isinstance(values, dict) and all(isinstance(name, str) for name in values)):
        raise InputError(f'{file}: expected settings by name, such as {{"epochs": 3}}, got {str(values)[:60]!r}.')
    if set(sections()) <= set(values):  # complete: a run's config.json
        return RunConfig.from_dict(values, where=str(file)), False
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in sections() and isinstance(value, dict):
            flat |= _known(value, f"{file}.{name}", name)
        else:
            flat |= {name: value}
    flat = {name: tuple(value) if isinstance(value, list) else value for name, value in flat.items()}
    model, recipe = flat.pop("model", None), flat.pop("recipe", None) or "baseline"
    try:
        return run_config(model, recipe, **flat), flat.get("batch_size") is None
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _known(values: dict[str, Any], where: str, section: str) -> dict[str, Any]:
    for name in values:
        if (owner := field_owners().get(name, section)) != section:
            place = f"belongs to {owner}" if owner else "stands outside of the sections"
            raise InputError(f"{where}: {name!r} {place}; move it.")
    return values


def _read_yaml(path: Path) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
        """Without aliases: those of aliases are values without an end in a file of a few lines."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise InputError(f"{path}: has YAML aliases (*name), which are not read; write the values out.")
            return super().compose_node(parent, index)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())}).") from None
