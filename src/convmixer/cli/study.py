"""The commands of the study: convmixer experiment and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from convmixer.cli.output import ERRORS, print_table
from convmixer.config import Device, Precision
from convmixer.errors import InputError, Interrupted

if TYPE_CHECKING:
    from convmixer.experiments.suite import Study
    from convmixer.report.records import StudyRecord


@dataclass(frozen=True)
class Experiment:
    """Run experiments of the study: tables of variants, each trained with several seeds.

    The same command continues where it was stopped; several processes with the same --out share the work.
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """all, or some of published, hidden_dim, classifier, bottleneck, grid_search, recipes, kernel_size, patch_size,
    depth_vs_width, regularisation."""
    dataset: str = "cifar10"
    """Name of a data set, such as digits or cifar10, or folder:PATH."""
    data_dir: str = "data"
    """Where archives are looked for and placed."""
    profile: Literal["smoke", "cpu", "full"] = "full"
    """smoke (a minute on the digits), cpu (small networks on real images), full (the published scale, for a GPU)."""
    seeds: int | None = None
    """How many runs of each row, with seeds from 0; by default what the profile says: 2, 3, 5."""
    out: Path | None = None
    """Directory of the study; by default results/PROFILE-DATASET."""
    precision: Precision | None = None
    """Number format, instead of the recipes' own."""
    device: Device = "auto"
    """Where to run."""
    json: bool = False
    """Print the report's records as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status: 1 if a run crashed."""
        from convmixer.experiments import experiments_named
        from convmixer.experiments.suite import Suite
        from convmixer.report import write_report

        suite = Suite(self._study(), experiments_named(self.names), ERRORS)
        try:
            crashes = suite.run()
        except Interrupted as stop:
            ERRORS.print("Interrupted; the checkpoint is written, the same command continues.")
            return 128 + stop.signum
        record, files = write_report(suite.study.out)
        _show_report(record, files, self.json)
        for crash in crashes:
            ERRORS.print(f"{crash}; the same command tries it again.", style="red")
        return 1 if crashes else 0

    def _study(self) -> Study:
        from convmixer.config import DataConfig
        from convmixer.experiments import PROFILES
        from convmixer.experiments.suite import Study

        profile = PROFILES[self.profile]
        seeds = profile.seeds if self.seeds is None else self.seeds
        data = DataConfig(dataset=self.dataset, data_dir=self.data_dir)
        name = Path(self.dataset.removeprefix("folder:")).resolve().name
        out = self.out or Path("results") / f"{self.profile}-{name}"
        options = {
            "dataset": self.dataset,
            "data-dir": self.data_dir,
            "profile": self.profile,
            "seeds": seeds,
            "out": out,
        }
        options |= {"precision": self.precision} if self.precision else {}
        flags = [text for flag, value in options.items() for text in (f"--{flag}", str(value))]
        return Study(
            out=out,
            profile_name=self.profile,
            profile=profile,
            seeds=seeds,
            data=data,
            common={"device": self.device} | ({"precision": self.precision} if self.precision else {}),
            command=("convmixer", "experiment", *self.names, *flags),
        )


@dataclass(frozen=True)
class Report:
    """Report a study, a folder of runs or a run: a page, Markdown with pictures, JSON and CSV."""

    folder: tyro.conf.Positional[Path]
    """What to report."""
    out: Path | None = None
    """Folder to write all of it to, or a file ending in .html, .md, .json or .csv; by default FOLDER/report."""
    json: bool = False
    """Print the records as JSON."""
    csv: bool = False
    """Print the runs as CSV."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.report import csv_text, write_report

        if self.json and self.csv:
            raise InputError("--json and --csv: only one of them can be printed; leave one out.")
        record, files = write_report(self.folder, self.out)
        if self.csv:
            print(csv_text(record), end="")
        _show_report(record, files, self.json, quiet=self.csv)
        return 0


def _show_report(record: StudyRecord, files: Sequence[Path], json: bool, quiet: bool = False) -> None:
    """The records as JSON, or tables of all rows; on stderr what could not be read and what was written."""
    from convmixer.report import json_text, tables
    from convmixer.report.files import files_table

    if json:
        print(json_text(record), end="")
    elif not quiet:
        for table in [*tables.overview(record), *map(files_table, record.files)]:
            rows = [[cell.text for cell in row] for row in table.rows]
            print_table(table.headers, rows, title=table.caption, optional=table.details)
    for problem in record.problems:
        ERRORS.print(problem, style="yellow")
    ERRORS.print(f"Written: {', '.join(str(f) for f in files if f.suffix != '.png')}")
