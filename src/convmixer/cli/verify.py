"""The command convmixer verify."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from convmixer.cli.output import ERRORS, print_json


@dataclass(frozen=True)
class Verify:
    """Say whether the files of runs, searches and studies are as they were written, by their SHA-256 and size."""

    folder: tyro.conf.Positional[Path]
    """A run, a search, a study, or a folder of them."""
    accept: bool = False
    """Take the files for right that are there now, such as one that was edited on purpose."""
    json: bool = False
    """Print the files of every directory as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status: 2 if a file is not as it was written."""
        from convmixer.runs.verify import verify

        found = verify(self.folder, accept=self.accept)
        kinds = ("whole", "changed", "missing", "unknown")
        if self.json:
            rows = [{"folder": str(r.folder), "sealed": r.sealed} | {k: getattr(r, k) for k in kinds} for r in found]
            print_json(rows)
        else:
            whole, changed, missing, unknown = (sum(len(getattr(result, kind)) for result in found) for kind in kinds)
            print(f"{whole} files as written, {changed} changed, {missing} missing, {unknown} unknown.")
            if unsealed := sum(not result.sealed and not result.problems for result in found):
                print(
                    f"In {unsealed} of {len(found)} directories an earlier version wrote no manifest to compare with."
                )
        problems = [problem for result in found for problem in result.problems]
        for problem in problems:
            ERRORS.print(problem, style="red", highlight=False, markup=False)
        return 2 if problems else 0
