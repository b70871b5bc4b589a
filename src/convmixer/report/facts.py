"""What holds for a report as a whole: what was run, where, and how its figures are to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import convmixer
from convmixer.report.records import StudyRecord


def facts(record: StudyRecord) -> dict[str, str]:
    """Names and values for the head of a report."""
    states = Counter(run.status for run in record.runs)
    return {
        name: value
        for name, value in {
            "Runs": ", ".join(f"{n} {state}" for state, n in states.most_common()),
            "Data": _distinct(run.dataset for run in record.runs),
            "Machine": _distinct(run.machine for run in record.runs),
            "Commit": _distinct(short_commit(run.commit) for run in record.runs),
            "Made by": f"convmixer {convmixer.__version__}: {record.command}",
        }.items()
        if value
    }


def short_commit(commit: str | None) -> str | None:
    """Ten digits of a commit, and the mark of changed files."""
    return commit and commit[:10] + commit[40:]


def _distinct(values: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values if value))


def notes(record: StudyRecord) -> list[str]:
    """How to read the figures; only what this report has."""
    found = [
        "Accuracies are means over seeds ± the half width of a 95 % Student t interval; one seed has no interval. "
        "Epoch time is training alone, the median over epochs and seeds.",
        "Train accuracy is the running mean over augmented images while the weights change: it can be below the test "
        "accuracy, and the gap between the two is not overfitting alone.",
    ]
    protocols = {run.protocol for run in record.runs}
    if "original" in protocols:
        found.append(
            "Runs with the original protocol report their best epoch on the test set: an optimistic figure, kept for "
            "comparison with the first study."
        )
    if "validation" in protocols:
        found.append("The epoch is chosen on held-out training images, and the test set is read once, at the end.")
    if any(experiment.base for experiment in record.experiments):
        found.append(
            "Differences are paired over equal seeds. A verdict other than “no evidence” needs p < 0.05 in the paired "
            "t test after Holm's correction for the number of rows; the intervals are not widened for it. Differences "
            "that are all equal have no spread to judge by, and give no evidence."
        )
    rows = [row for experiment in record.experiments for row in experiment.rows if row.document]
    if rows:
        found.append(
            "“Document” is the first study: the best of 25 epochs on the test set of CIFAR-10, one run each, on "
            "another machine. The difference to ours is given only where the images are CIFAR-10's."
        )
    scaled = {experiment.profile for experiment in record.experiments} - {None, "full"}
    if rows and scaled:
        found.append(
            f"The profile ({', '.join(sorted(filter(None, scaled)))}) scales widths, depth and epochs down from the "
            "document's networks of 256 channels, 8 blocks and 25 epochs: compare what rows differ by, not their level."
        )
    if record.grid is not None and record.grid.effects:
        found.append(
            "Importance is Σ nᵥ(mᵥ − m)² / Σ (yᵢ − m)²: the variance of the means per value, divided by the variance "
            "of all trials (a first-order Sobol index). A parameter of k values without effect gets (k − 1)/(n − 1) on "
            "average, of n trials. Values drawn from a range are taken in quarters."
        )
    return found
