"""The commands about several runs: convmixer runs and compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from convmixer.cli.output import ERRORS, check_figure_file, print_json, print_table, save_picture
from convmixer.config import Device
from convmixer.errors import InputError
from convmixer.utils.formatting import NOTHING, number, percent, points

if TYPE_CHECKING:
    from convmixer.inference.paired import PairedTest
    from convmixer.runs import RunDir
    from convmixer.runs.listing import RunRow

_BARS = "▁▂▃▄▅▆▇█"
_CURVE = 40  # characters of a curve, at most


@dataclass(frozen=True)
class Runs:
    """List the runs below a directory."""

    folder: tyro.conf.Positional[Path] = Path("results")
    """Where to look."""
    sort: Literal["path", "val", "test", "started", "epochs", "model"] = "path"
    """Order: accuracies and dates from the top down, everything else upwards."""
    status: str | None = None
    """Only runs with this status: finished, interrupted, running, crashed, diverged or pruned."""
    dataset: str | None = None
    """Only runs on a data set whose name contains this."""
    model: str | None = None
    """Only runs of this model."""
    recipe: str | None = None
    """Only runs with this recipe."""
    json: bool = False
    """Print the list as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.runs.listing import list_runs

        rows, problems = list_runs(self.folder)
        rows = sorted(filter(self._wanted, rows), key=self._key)
        if self.json:
            print_json([asdict(row) for row in rows])
        elif rows:
            headers = ("run", "status", "epochs", "val", "test", "model", "data", "recipe", "seed", "started")
            cells = [self._cells(row) for row in rows]
            print_table(headers, cells, optional=("started", "seed", "recipe", "data", "model"))
        else:
            ERRORS.print(f"No such runs below {self.folder}.", highlight=False, markup=False)
        for problem in problems:
            ERRORS.print(problem, style="yellow", highlight=False, markup=False)
        return 0

    def _wanted(self, row: RunRow) -> bool:
        equal = ((self.status, row.status), (self.model, row.model), (self.recipe, row.recipe))
        return all(asked in (None, had) for asked, had in equal) and (self.dataset or "") in row.dataset

    def _key(self, row: RunRow) -> Any:
        if self.sort in ("val", "test"):
            return -(getattr(row, f"{self.sort}_accuracy") or 0.0)
        if self.sort == "started":
            return [-ord(letter) for letter in row.started]
        return getattr(row, self.sort)

    def _cells(self, row: RunRow) -> tuple[str, ...]:
        path = Path(row.path)
        name = str(path.relative_to(self.folder)) if path != self.folder else row.path
        done = str(row.epochs) if row.finished_epochs == row.epochs else f"{row.finished_epochs} of {row.epochs}"
        accuracies = (percent(row.val_accuracy), percent(row.test_accuracy))
        started = row.started[:16].replace("T", " ")
        return (name, row.status, done, *accuracies, row.model, row.dataset, row.recipe, str(row.seed), started)


@dataclass(frozen=True)
class Compare:
    """Compare runs: settings that differ, figures, validation curves, and a paired test on the same images."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, two or more; the test compares each one with the first."""
    split: Literal["test", "val", "train", "none"] = "test"
    """Images of the paired test; none leaves it out."""
    device: Device = "auto"
    """Where to compute the test."""
    plot: Path | None = None
    """File, .png or .svg, for a picture of the curves."""
    json: bool = False
    """Print everything as JSON."""

    def execute(self) -> int:
        """Runs the command; returns the exit status."""
        from convmixer.runs import RunDir

        if len(self.runs) < 2:
            raise InputError("compare: takes two run directories or more.")
        check_figure_file("--plot", self.plot)
        runs = [RunDir.existing(path) for path in self.runs]
        names = _short_names(self.runs)
        settings = _differences(runs)
        curves = {
            name: [r.selection_metrics()[1] for r in run.metrics()] for name, run in zip(names, runs, strict=True)
        }
        tests, reason = self._tests(runs)
        if self.json:
            rows = [{"run": str(run.path), "summary": s.to_dict() if (s := run.summary()) else None} for run in runs]
            paired = [asdict(test) for test in tests]
            print_json({"runs": rows, "settings": settings, "curves": list(curves.values()), "paired": paired})
        else:
            _show(runs, names, settings, curves)
            self._show_tests(names, tests)
        if reason:
            ERRORS.print(f"No paired test: {reason}", style="yellow", highlight=False, markup=False)
        if self.plot is not None:
            from convmixer.utils.study_figures import band, curve_bands

            known = {
                name: {i: value for i, value in enumerate(curve, 1) if value is not None}
                for name, curve in curves.items()
            }
            bands = [band(name, [curve]) for name, curve in known.items() if curve]
            if not bands:
                raise InputError("--plot: none of the runs was evaluated on held-out images; there is no curve.")
            save_picture(curve_bands(bands, "held-out accuracy", is_share=True), self.plot)
            ERRORS.print(f"Written: {self.plot}", highlight=False, markup=False)
        return 0

    def _tests(self, runs: Sequence[RunDir]) -> tuple[list[PairedTest], str]:
        """A test of each run against the first, or why there is none."""
        if self.split == "none":
            return [], ""
        from convmixer.inference.paired import correct_answers, mcnemar

        try:
            with ERRORS.status("evaluating on the same images"):
                first, *others = correct_answers([run.path for run in runs], self.split, device=self.device)
        except InputError as error:
            return [], error.with_flags()
        return [mcnemar(first, other) for other in others], ""

    def _show_tests(self, names: Sequence[str], tests: Sequence[PairedTest]) -> None:
        if not tests:
            return
        rows = [
            (
                name,
                f"{points(test.difference)} ± {100 * test.half_width:.2f}",
                str(test.only_second),
                str(test.only_first),
                f"{test.p_value:.2g}",
            )
            for name, test in zip(names[1:], tests, strict=True)
        ]
        headers = ("run", "points (95% interval)", "only it is right", f"only {names[0]} is", "p (McNemar)")
        title = f"against {names[0]} on the same {tests[0].images:,} {self.split} images; other seeds may differ more"
        print_table(headers, rows, title=title)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    for length in range(1, max(len(path.resolve().parts) for path in paths)):
        names = [str(Path(*path.resolve().parts[-length:])) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _differences(runs: Sequence[RunDir]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs, with each one's value."""
    identities = [run.config().identity() for run in runs]
    values = {name: [identity[name] for identity in identities] for name in identities[0]}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _show(
    runs: Sequence[RunDir], names: Sequence[str], settings: dict[str, list[Any]], curves: dict[str, list[float | None]]
) -> None:
    summaries = [run.summary() for run in runs]
    rows = [(name, *map(number, values)) for name, values in settings.items()]
    figures: dict[str, list[str]] = {
        "status": [str(run.status()) for run in runs],
        "parameters": [f"{s.parameters:,}" if s else NOTHING for s in summaries],
        "val accuracy": [percent(s.val_accuracy if s else None) for s in summaries],
        "test accuracy": [percent(s.test_accuracy if s else None) for s in summaries],
        "selected epoch": [str(s.selected_epoch if s else NOTHING) for s in summaries],
        "epoch": [f"{s.epoch_seconds:.1f} s" if s and s.epoch_seconds else NOTHING for s in summaries],
    }
    print_table(("setting", *names), rows or [("none differs", *("" for _ in names))], title="settings that differ")
    print_table(("figure", *names), [(name, *values) for name, values in figures.items()], title="figures")
    known = [value for curve in curves.values() for value in curve if value is not None]
    if known:
        low, high = min(known), max(known)
        lines = [(name, sparkline(curve, low, high)) for name, curve in curves.items()]
        print_table(("run", f"{percent(low)} to {percent(high)}"), lines, title="held-out accuracy by epoch")


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """Numbers from ``low`` to ``high`` as bars, at most 40 of them: the last of each stretch; a gap where none is."""
    count = min(len(values), _CURVE)
    chosen = [values[(i + 1) * len(values) // count - 1] for i in range(count)]
    top = len(_BARS) - 1
    return "".join(
        " " if value is None else _BARS[round(top * (value - low) / (high - low)) if high > low else top]
        for value in chosen
    )
