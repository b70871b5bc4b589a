"""What the figures say, in sentences that are made from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convmixer.report.records import ComparisonRow, Difference, TrialRow
from convmixer.utils.metrics import MainEffect


def points(value: float) -> str:
    """A difference of two accuracies in percentage points: +0.81."""
    text = f"{100 * value:+.2f}".replace("-", "−")
    return "0.00" if text[1:] == "0.00" else text


def seeds(n: int) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{n} seed{'s' if n != 1 else ''}"


def shown_values(values: dict[str, Any]) -> str:
    """``lr 0.01, batch_size 64``."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def of_row(row: ComparisonRow, base: ComparisonRow | None) -> str:
    """The key insight of a row: against the base where there is one, else its own figure and how sure that is."""
    if row.test_accuracy is None:
        return "Not measured yet." if row.runs else "No runs."
    if base is None or row.is_base or base.test_accuracy is None:
        sentences = [_own(row)]
    elif row.difference is None:
        sentences = [f"Has no seed in common with {base.label}, so that nothing can be said of the difference."]
    else:
        sentences = [_verdict(row.difference, base.label), _cost(row, base), _overfit(row, base), _said(row, base)]
    if row.unfinished:
        sentences.append(f"{row.unfinished} of {len(row.runs)} runs are not finished.")
    return " ".join(sentence for sentence in sentences if sentence)


def _own(row: ComparisonRow) -> str:
    test = row.test_accuracy
    assert test is not None
    role = "What the others are compared with. " if row.is_base else ""
    if test.half_width is None or test.std is None:
        return f"{role}One seed says nothing of the spread between seeds."
    if test.std == 0:
        return f"{role}Its {seeds(test.n)} agree to the last image, which is chance and no measure of the spread."
    return (
        f"{role}Its seeds scatter by {100 * test.std:.2f} points, so that the mean of {seeds(test.n)} is known "
        f"to ± {100 * test.half_width:.2f}."
    )


def _verdict(difference: Difference, base: str) -> str:
    if difference.half_width is None:
        return f"{points(difference.mean)} points on {base} at one seed, which is no evidence of a difference."
    low, high = difference.mean - difference.half_width, difference.mean + difference.half_width
    measured = f"{points(difference.mean)} points on {base} ({points(low)} to {points(high)}, {seeds(difference.n)})"
    if difference.p_adjusted is None:
        return f"No evidence of a difference: {measured}, and no spread to judge by."
    if difference.verdict != "no evidence":
        return f"{difference.verdict.capitalize()}: {measured}, p = {difference.p_adjusted:.2g}."
    corrected = f"; p = {difference.p_adjusted:.2g} after correction for the other rows" if low * high > 0 else ""
    return f"No evidence of a difference at {seeds(difference.n)}: {measured}{corrected}."


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
    return f"The gap between training and test is {'wider' if change > 0 else 'narrower'} by {100 * abs(change):.2f}."


def _said(row: ComparisonRow, base: ComparisonRow) -> str:
    """Whether the document's difference to its base, from one run each, is in our interval; on its images only."""
    if row.document_difference is None or base.document_difference is None:
        return ""
    assert row.document is not None
    assert base.document is not None
    assert row.difference is not None
    theirs, half = (row.document.test_accuracy or 0.0) - (base.document.test_accuracy or 0.0), row.difference.half_width
    if half is None:
        return ""
    inside = abs(theirs - row.difference.mean) <= half
    return f"The document's {points(theirs)}, of one run each, is {'within' if inside else 'outside'} that interval."


def of_grid(trials: Sequence[TrialRow], effects: Sequence[MainEffect], winner: ComparisonRow | None) -> str:
    """What a grid search found, and how little of it may mean anything."""
    done = [trial for trial in trials if trial.state == "finished" and trial.val_accuracy is not None]
    sentences = [f"{len(done)} of {len(trials)} trials are finished."]
    if done:
        best = max(done, key=lambda trial: trial.val_accuracy or 0.0)
        values = shown_values(best.values)
        sentences.append(f"The best on validation is trial {best.number} ({values}) with {best.val_accuracy:.2%}.")
    if effects:
        first = effects[0]
        relation = "more" if first.share > 2 * first.by_chance else "not much more"
        sentences.append(
            f"{first.name} alone explains {first.share:.0%} of the variance between trials, {relation} than the "
            f"{first.by_chance:.0%} that a parameter without effect gets by chance."
        )
    if winner is not None and winner.test_accuracy is not None:
        test = winner.test_accuracy
        spread = f" ± {100 * test.half_width:.2f}" if test.half_width is not None else ""
        sentences.append(
            f"Trained again over {seeds(test.n)}, the winner reaches {100 * test.mean:.2f}{spread} % on the test set, "
            "which nothing was chosen on."
        )
    return " ".join(sentences)
