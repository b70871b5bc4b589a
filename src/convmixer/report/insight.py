"""What the metrics say, in sentences that are made from them: of a row, of a search, of a report as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from convmixer.report.records import ComparisonRow, Difference, SearchRecord, StudyRecord
from convmixer.utils.formatting import half_width, mean_accuracy, percent, plural, points, settings
from convmixer.version import __version__


def of_row(row: ComparisonRow, base: ComparisonRow | None) -> str:
    """The key insight of a row: against the base where there is one, else how well its own mean is known."""
    if row.test_accuracy is None:
        sentences = ["Not measured yet." if row.runs else "No runs."]
    elif base is None or row.is_base or base.test_accuracy is None:
        sentences = ["The baseline of this comparison." if row.is_base else "", _spread(row)]
    elif row.difference is None:
        sentences = [f"Has no seed in common with {base.label}: the difference is unknown."]
    else:
        published = _published(row.difference)
        sentences = [_verdict(row.difference, base.label), _cost(row, base), _overfit(row, base), published]
    if row.diverged:
        sentences.append(f"{row.diverged} of {len(row.runs)} runs diverged.")
    if row.runs and (waiting := row.unfinished - row.diverged) and row.test_accuracy is not None:
        sentences.append(f"{waiting} of {plural(len(row.runs), 'run')} not finished.")
    return " ".join(sentence for sentence in sentences if sentence)


def _spread(row: ComparisonRow) -> str:
    test = row.test_accuracy
    assert test is not None
    if test.half_width is None or test.std is None:
        return "One seed: the spread between seeds is unknown."
    if test.std == 0:
        everyone = "Both" if test.n == 2 else f"All {test.n}"
        return f"{everyone} seeds agree to the last image, by chance: no measure of the spread."
    spread = f"SD {100 * test.std:.2f} points over {plural(test.n, 'seed')}"
    return f"{spread}; 95% CI of the mean{half_width(test.half_width)}." if test.informative else f"{spread}."


def _verdict(difference: Difference, base: str) -> str:
    gain, n = f"{points(difference.mean)} points vs. {base}", plural(difference.n, "seed")
    if difference.half_width is None:
        return f"{gain} with one seed, which is no evidence of a difference."
    if difference.p_adjusted is None:
        return f"No evidence of a difference: {gain} for each of {n}, and no spread to judge by."
    if not difference.informative:
        return f"No evidence of a difference: {gain}, and {n} give no useful interval."
    low, high = difference.mean - difference.half_width, difference.mean + difference.half_width
    measured = f"{gain} ({points(low)} to {points(high)}, {n})"
    if difference.verdict != "no evidence":
        return f"{difference.verdict.capitalize()}: {measured}, p = {difference.p_adjusted:.2g}."
    corrected = f"; p = {difference.p_adjusted:.2g} after correction for the other rows" if low * high > 0 else ""
    return f"No evidence of a difference with {n}: {measured}{corrected}."


def _cost(row: ComparisonRow, base: ComparisonRow) -> str:
    """Time and size in relation to the base's, where they differ by more than a twentieth."""
    ratios = {
        "epoch time": _ratio(row.epoch_seconds, base.epoch_seconds),
        "parameters": _ratio(row.parameters, base.parameters),
        "multiply-adds": _ratio(row.multiply_adds, base.multiply_adds),
    }
    notable = [f"{ratio:.2f}× the {name}" for name, ratio in ratios.items() if ratio and abs(ratio - 1) > 0.05]
    return f"Takes {', '.join(notable)}." if notable else "Costs about the same."


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _overfit(row: ComparisonRow, base: ComparisonRow) -> str:
    """How the gap between training and test accuracy changes, where that exceeds what either is uncertain by."""
    if row.gap is None or base.gap is None or row.gap.half_width is None or base.gap.half_width is None:
        return ""
    change = row.gap.mean - base.gap.mean
    if abs(change) <= row.gap.half_width + base.gap.half_width:
        return ""
    side = "wider" if change > 0 else "narrower"
    return f"The gap between training and test accuracy is {side} by {100 * abs(change):.2f} points."


def _published(difference: Difference) -> str:
    """Whether the published difference to the base, from one run each, is in our interval; on its images only."""
    if difference.published is None or difference.half_width is None or not difference.informative:
        return ""
    inside = abs(difference.published - difference.mean) <= difference.half_width
    where = "inside" if inside else "outside"
    return f"The published difference, {points(difference.published)} from one run each, lies {where} this interval."


def of_search(search: SearchRecord) -> str:
    """What a search found, and how little of it may mean anything."""
    done = [trial for trial in search.trials if trial.state == "finished" and trial.val_accuracy is not None]
    sentences = [f"{len(done)} of {plural(len(search.trials), 'trial')} finished."]
    if done:
        best = max(done, key=lambda trial: trial.val_accuracy or 0.0)
        found = f"trial {best.number} ({settings(best.values)}) with {percent(best.val_accuracy)}"
        sentences.append(f"The best on validation is {found}.")
    if search.effects:
        first = search.effects[0]
        relation = "more" if first.share > 2 * first.by_chance else "not much more"
        sentences.append(
            f"{first.name} alone explains {first.share:.0%} of the variance between trials, {relation} than the "
            f"{first.by_chance:.0%} that a parameter without effect gets by chance."
        )
    if search.winner is not None and (test := search.winner.test_accuracy) is not None:
        sentences.append(
            f"Trained again with {plural(test.n, 'seed')}, the winner reaches {mean_accuracy(test)} on the test set, "
            "which played no part in selection."
        )
    return " ".join(sentences)


# Of a report as a whole


def facts(record: StudyRecord) -> dict[str, str]:
    """Names and values for the head of a report: what was run, on what, where."""
    states = Counter(run.status for run in record.runs)
    found = {
        "Runs": ", ".join(f"{n} {state}" for state, n in states.most_common()),
        "Data": _distinct(run.dataset for run in record.runs),
        "Machine": _distinct(run.machine for run in record.runs),
        "Commit": _distinct(short_commit(run.commit) for run in record.runs),
        "Made by": f"convmixer {__version__}: {record.command}",
    }
    return {name: value for name, value in found.items() if value}


def short_commit(commit: str | None) -> str | None:
    """Ten digits of a commit, and the mark of changed files."""
    return commit and commit[:10] + commit[40:]


def _distinct(values: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values if value))


def notes(record: StudyRecord) -> list[str]:
    """How to read the metrics; only what this report has."""
    found = [
        "A mean over seeds is given ± the half width of its 95% interval (Student's t), or with the interval's ends "
        "where it would reach beyond 0 or 100%. One seed has no interval; that of two seeds is left out where it is "
        "wider than ± 10 points, and that of equal results always. SD is the standard deviation over seeds. The "
        "accuracy of a single run is given with the ends of its 95% interval over the choice of images (Wilson).",
        "Epoch time is training alone, the median over epochs and seeds. Training accuracy is the running mean over "
        "augmented images while the weights change: it can be below the test accuracy, and the gap between the two is "
        "not overfitting alone.",
    ]
    protocols = {run.protocol for run in record.runs}
    if "original" in protocols:
        found.append(
            "Runs with the original protocol report their best epoch on the test set: an optimistic figure, kept for "
            "comparison with the first study."
        )
    if "validation" in protocols:
        found.append("The epoch is selected on held-out training images; the test set is read once, at the end.")
    if any(run.is_trial for run in record.runs):
        found.append("Search trials are compared on validation images and are not tested; only the winner is.")
    if any(experiment.base for experiment in record.experiments):
        found.append(
            "Differences are paired over equal seeds. A verdict other than “no evidence” needs p < 0.05 in the paired "
            "t test after Holm's correction for the number of rows; the intervals are not widened for it. Differences "
            "that are all equal have no spread to judge by, and give no evidence."
        )
    rows = [row for experiment in record.experiments for row in experiment.rows]
    if any(row.published or (row.difference and row.difference.published is not None) for row in rows):
        found.append(
            "“Published” is the first study: one run of each row on CIFAR-10, the best of 25 epochs on the test set, "
            "on another machine. Published accuracies stand only beside runs of that data and scale (256/8 or wider, "
            "about 25 epochs), published differences beside all on CIFAR-10."
        )
    if record.files:
        found.append(
            "Models side by side were measured in turns, each in processes of its own; times are ratios to the first "
            "one's in the same turn. The difference of accuracies is paired on the same images, p is that of the exact "
            "McNemar test. Memory is what the process takes at its peak beyond Python with NumPy while it answers one "
            "image at a time: runtime, weights and activations."
        )
    if any(search.effects for search in record.searches):
        found.append(
            "Importance is Σ nᵥ(mᵥ − m)² / Σ (yᵢ − m)²: the variance of the means per value, divided by the variance "
            "of all trials (a first-order Sobol index). A parameter of k values without effect gets (k − 1)/(n − 1) on "
            "average, of n trials. Values drawn from a range are grouped in quarters."
        )
    return found
