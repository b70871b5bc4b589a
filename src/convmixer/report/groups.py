"""Runs that no experiment or search explains: grouped by their data, into rows that differ by more than the seed.

A row is named by the fewest settings that tell it from the others of its group, or by its directory where that is
shorter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from convmixer.report.collect import Run, Study
from convmixer.report.records import ComparisonRow, ExperimentRecord
from convmixer.utils.formatting import number

Settings = Mapping[str, Any]
"""What defines a run, the seed aside."""

_LONGEST_LABEL = 44
_SHOWN_CHANGES = 4
# Of settings that tell as much, the first here is shown.
_PREFERRED = ("model", "head", "branch", "recipe", "dim", "depth", "kernel_size", "patch_size", "lr", "weight_decay",
              "batch_size", "epochs", "optimizer", "schedule")  # fmt: skip
_NOT_SHOWN = ("seed", "dataset")


def groups_by_data(study: Study) -> Iterator[ExperimentRecord]:
    """A group for each data set, the one with most runs first; its rows have no metrics yet."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in study.runs.values():
        if run.config is not None and not run.row.purposes:
            data = (run.row.dataset or "", run.info.fingerprint if run.info else "")
            groups.setdefault(data, []).append(run)
    names = Counter(name for name, _ in groups)
    for (dataset, fingerprint), runs in sorted(groups.items(), key=lambda entry: -len(entry[1])):
        name = dataset if names[dataset] == 1 else f"{dataset} {fingerprint[:6] or 'not loaded'}"
        title, rows = f"Runs on {name}", _rows(runs)
        yield ExperimentRecord(name=f"runs {name}", title=title, designed=False, dataset=dataset, rows=rows)


def _rows(runs: Sequence[Run]) -> tuple[ComparisonRow, ...]:
    identities: dict[str, dict[str, Any]] = {}
    members: dict[str, list[Run]] = {}
    for run in runs:
        assert run.config is not None
        identity = {name: value for name, value in run.config.identity().items() if name not in _NOT_SHOWN}
        key = repr(run.config.replace(seed=0).identity())
        identities[key] = identity
        members.setdefault(key, []).append(run)
    directories = _by_directory([[run.row.name for run in own] for own in members.values()])
    by_settings, longest = labels_by_settings(list(identities.values())), max(_LONGEST_LABEL, *map(len, directories))
    fits = by_settings is not None and max(map(len, by_settings)) <= longest
    labels = by_settings if by_settings is not None and fits else directories
    usual = _usual(list(identities.values()))
    return tuple(
        ComparisonRow(
            label=label,
            changes={} if fits else _unusual(identities[key], usual),
            runs=tuple(run.row.path for run in members[key]),
        )
        for label, key in zip(labels, members, strict=True)
    )


def labels_by_settings(identities: Sequence[Settings]) -> list[str] | None:
    """Names made of the fewest settings that tell all rows apart; None if there are none."""
    if len(identities) == 1:
        return [str(identities[0]["model"])]
    chosen: list[str] = []
    varying = _varying(identities)
    while (found := _count(identities, chosen)) < len(identities):
        best = max(varying, key=lambda name: _count(identities, [*chosen, name]), default=None)
        if best is None or _count(identities, [*chosen, best]) == found:
            return None
        chosen.append(best)
    for name in chosen[:-1]:  # a later choice may have made an earlier one superfluous
        rest = [other for other in chosen if other != name]
        if _count(identities, rest) == len(identities):
            chosen = rest
    ordered = [name for name in varying if name in chosen]
    return [", ".join(setting(name, identity.get(name)) for name in ordered) for identity in identities]


def setting(name: str, value: Any) -> str:
    """``lr 0.01``; a model and a recipe by their names alone."""
    return str(value) if name in ("model", "recipe") else f"{name.replace('_', ' ')} {number(value)}"


def _varying(identities: Sequence[Settings]) -> list[str]:
    names = list(dict.fromkeys(name for identity in identities for name in identity))
    names.sort(key=lambda name: _PREFERRED.index(name) if name in _PREFERRED else len(_PREFERRED))
    return [name for name in names if _count(identities, [name]) > 1]


def _count(identities: Sequence[Settings], names: Sequence[str]) -> int:
    """How many rows these settings tell apart."""
    return len({tuple(repr(identity.get(name)) for name in names) for identity in identities})


def _by_directory(names: Sequence[Sequence[str]]) -> list[str]:
    """For each row what the directories of its runs have in common; the first one's name if that is not unique."""
    shared = [re.sub(r"[-_ .]*(seed|s)?[-_ .]*$", "", _common_start(own)) if len(own) > 1 else own[0] for own in names]
    counts = Counter(shared)
    return [name if name and counts[name] == 1 else own[0] for name, own in zip(shared, names, strict=True)]


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _usual(identities: Sequence[Settings]) -> Settings:
    """For each setting that varies its most frequent value."""
    return {
        name: Counter(repr(identity.get(name)) for identity in identities).most_common(1)[0][0]
        for name in _varying(identities)
    }


def _unusual(identity: Settings, usual: Settings) -> dict[str, Any]:
    changes = [name for name, value in usual.items() if repr(identity.get(name)) != value]
    return {name: identity.get(name) for name in changes[:_SHOWN_CHANGES]}
