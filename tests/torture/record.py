"""The record of a run: what was tried, what survived, what failed and how to repeat it."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_SHOWN = 40


@dataclass
class Tally:
    """An area's figures."""

    area: str
    goal: int
    trials: int = 0
    tried: int = 0
    seconds: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {"verdicts": dict(self.verdicts), "skipped": dict(self.skipped)}


def environment(seed: int, minutes: float) -> dict[str, Any]:
    """Machine, versions, commit, seed and command."""
    import optuna
    import PIL
    import safetensors
    import torch

    from convmixer.version import __version__

    fuzzer = {"atheris": version("atheris")} if find_spec("atheris") else {}
    described = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit = subprocess.run(described, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    models = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = [line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{len(os.sched_getaffinity(0))} × {next(iter(models), platform.machine())}",
        "memory_gib": round(int(next(iter(memory), "0")) / 2**20, 1),
        "system": platform.platform(),
        "versions": {
            "convmixer": __version__,
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, optuna, PIL, safetensors)},
            **fuzzer,
        },
        "commit": commit or None,
        "seed": seed,
        "minutes": minutes,
        "command": ["python", "-m", "tests.torture", *sys.argv[1:]],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def markdown(about: dict[str, Any], tallies: list[Tally]) -> str:
    """The table, and a line to repeat each failure."""
    lines = [
        "| area | tried | survived | failed | goal | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for tally in tallies:
        failed = len(tally.failures)
        row = (
            tally.area,
            f"{tally.tried:,}",
            f"{tally.tried - failed:,}",
            failed,
            f"{tally.goal:,}",
            f"{tally.seconds:.0f}",
        )
        lines.append("| " + " | ".join(map(str, row)) + " |")
    lines += ["", "How trials ended:", ""]
    for tally in tallies:
        ends = ", ".join(f"{count:,} {verdict}" for verdict, count in tally.verdicts.most_common())
        lines.append(f"- {tally.area}: {ends or 'none was made'}")
    for tally in tallies:
        lines += [f"- {tally.area}: left out: {why}" for why in tally.skipped]
    failures = [failure for tally in tallies for failure in tally.failures]
    if failures:
        lines += ["", "Failures, one line for each kind, with what repeats one of them:", ""]
        lines += ["| times | what | verdict | detail | repeat |", "| ---: | --- | --- | --- | --- |"]
        kinds: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for failure in failures:
            kind = re.sub(r"\d+|[0-9a-f]{10,}", "", failure["detail"])[:60]
            kinds.setdefault((failure["repeat"].split()[4], failure["verdict"], kind), []).append(failure)
        for same in sorted(kinds.values(), key=len, reverse=True)[:_SHOWN]:
            f = same[0]
            cells = (len(same), _cell(f["what"]), f["verdict"], _cell(f["detail"])[:200], f"`{f['repeat']}`")
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        if len(kinds) > _SHOWN:
            lines += ["", f"{len(kinds) - _SHOWN:,} more kinds are in torture.json."]
    where = f"{about['machine']}, {about['memory_gib']} GiB; {about['system']}"
    where += f"; commit {about['commit']}; seed {about['seed']}"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return "\n".join([*lines, "", f"{about['date']}, {where}; {versions}; `{' '.join(about['command'])}`", ""])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("`", "'").split())


def write(folder: Path, about: dict[str, Any], tallies: list[Tally]) -> None:
    """Writes ``torture.json`` and ``torture.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = about | {"areas": [tally.to_dict() for tally in tallies]}
    (folder / "torture.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "torture.md").write_text("# Torture\n\n" + markdown(about, tallies))
