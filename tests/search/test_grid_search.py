"""Searches in this process: what they find, what they leave, and that the run directories alone are enough to go on."""

from __future__ import annotations

import io
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_pre_hook

from convmixer.data import Dataset
from convmixer.errors import InputError, Interrupted
from convmixer.report import write_report
from convmixer.runs import RunDir
from convmixer.search.adaptive import AdaptiveSearch
from convmixer.search.grid_search import SearchResult, default_search_path, grid_search, marginals
from convmixer.search.listed import ListedSearch
from convmixer.search.search import RECORDS
from convmixer.search.space import SearchConfig
from convmixer.search.storage import JOURNAL
from convmixer.training import train
from convmixer.training.loop import TrainingLoop
from convmixer.training.schedule import learning_rate
from tests.helpers.runs import tiny_config
from tests.helpers.searches import records, starts

pytestmark = pytest.mark.usefixtures("one_thread")

BASE = tiny_config(engine="plain", epochs=1)
SIX = SearchConfig(values=("lr=0.001,0.05", "wd=0.01,0.02,0.5"), seeds=2)
PRUNED = SearchConfig(values=SIX.values, seeds=2, pruner="median")  # the same through Optuna: of one epoch none ends


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> tuple[Path, SearchResult]:
    """A search that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "search"
    return out, grid_search(BASE, SIX, out, dataset=digits)


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> tuple[Path, SearchResult]:
    """The same search through Optuna."""
    out = tmp_path_factory.mktemp("adaptive") / "search"
    return out, grid_search(BASE, PRUNED, out, dataset=digits)


@pytest.mark.slow
def test_optuna_changes_nothing_of_a_grid(
    whole: tuple[Path, SearchResult], adaptive: tuple[Path, SearchResult]
) -> None:
    assert records(adaptive[0]) == {**records(whole[0]), "pruner": "median"}
    assert not (whole[0] / JOURNAL).exists()


def test_what_it_leaves(whole: tuple[Path, SearchResult]) -> None:
    out, result = whole
    content = records(out)
    assert content["name"] == "grid_search"
    assert content["space"] == {"lr": [0.001, 0.05], "weight_decay": [0.01, 0.02, 0.5]}
    assert (content["sampler"], content["dataset"]) == ("grid", "digits")
    assert [row["values"] for row in content["trials"]] == SIX.grid()
    assert [row["number"] for row in content["trials"]] == list(range(6))
    for row in content["trials"]:
        run = RunDir.existing(out / row["path"])
        summary = run.summary()
        assert summary is not None
        assert run.config() == BASE.replace(**row["values"])
        assert (row["state"], row["seed"], row["val_accuracy"]) == ("finished", 0, summary.val_accuracy)
    best = max(content["trials"], key=lambda row: row["val_accuracy"])
    assert content["winner"]["values"] == best["values"] == result.winner
    assert [run["seed"] for run in content["winner"]["runs"]] == [0, 1]
    assert starts(out).total() == 7
    (lr, *_) = marginals(result.records, SIX)
    of_value = [row["val_accuracy"] for row in content["trials"] if row["values"]["lr"] == lr.value]
    assert (lr.name, lr.runs, lr.mean, lr.best) == ("lr", 3, statistics.fmean(of_value), max(of_value))


def test_only_the_winner_reads_the_test_set(whole: tuple[Path, SearchResult]) -> None:
    out, result = whole
    winner = {out / run["path"] for run in records(out)["winner"]["runs"]}
    assert [run.test_accuracy is not None for run in result.runs] == [True, True]
    for folder in (out / "runs").iterdir():
        summary = RunDir(folder).summary()
        assert summary is not None
        assert (summary.test_accuracy is not None) == (folder in winner)
        assert bool(list(folder.glob("*test*"))) == (folder in winner)


def test_the_searched_learning_rate_reaches_every_step(tmp_path: Path, digits: Dataset) -> None:
    """In the study's own grid search the schedule put another rate in its place, at every step."""
    used: list[float] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: used.extend({g["lr"] for g in optimizer.param_groups})
    )
    base, settings = BASE.replace(epochs=3), SearchConfig(values=("lr=0.0003,0.002,0.07",), seeds=0)
    try:
        grid_search(base, settings, tmp_path, dataset=digits)
    finally:
        hook.remove()
    per_epoch = len(digits.splits["train"]) // (base.train.batch_size or 1)
    for i, values in enumerate(settings.grid()):
        config = base.replace(**values)
        expected = [learning_rate(config.train, step, per_epoch) for step in range(3 * per_epoch)]
        assert used[i * len(expected) : (i + 1) * len(expected)] == expected
        assert max(expected) == pytest.approx(values["lr"])
        logged = [record.lr for record in RunDir(tmp_path / records(tmp_path)["trials"][i]["path"]).metrics()]
        assert logged == expected[per_epoch - 1 :: per_epoch]
    assert len(used) == 3 * 3 * per_epoch


def test_combinations_are_compared_by_their_mean(tmp_path: Path, digits: Dataset) -> None:
    settings = SearchConfig(values=("lr=0.02,0.05",), trial_seeds=2, seeds=1)
    result = grid_search(BASE, settings, tmp_path, dataset=digits)
    rows = [(row.number, row.seed) for row in result.records]
    assert rows == [(0, 0), (0, 1), (1, 0), (1, 1)]
    means = [statistics.fmean(r.val_accuracy or 0 for r in result.records if r.number == n) for n in (0, 1)]
    assert result.winner == settings.grid()[means.index(max(means))]


def test_a_diverged_run_does_not_win(tmp_path: Path, digits: Dataset) -> None:
    base = BASE.replace(clip_norm=0.0, warmup_epochs=0.0, epochs=2)
    result = grid_search(base, SearchConfig(values=("lr=1e30,0.01",), seeds=1), tmp_path, dataset=digits)
    assert [row.state for row in result.records] == ["diverged", "finished"]
    assert result.winner == {"lr": 0.01}
    alone = grid_search(base, SearchConfig(values=("lr=1e30",)), tmp_path / "none", dataset=digits)
    assert (alone.winner, alone.runs, records(tmp_path / "none")["winner"]) == (None, [], None)


def test_few_steps_in_an_epoch_are_said_once(tmp_path: Path, digits: Dataset) -> None:
    settings = SearchConfig(values=("bs=100,400,600", "lr=0.01,0.02"), seeds=0)

    def hints() -> list[str]:
        output = io.StringIO()
        grid_search(BASE, settings, tmp_path, dataset=digits, console=Console(file=output, width=200))
        return [line for line in output.getvalue().splitlines() if "--batch-size" in line]

    assert [("batches of 400" in line, "batches of 600" in line) for line in hints()] == [(True, False), (False, True)]
    assert hints() == []  # nothing is left to train


@pytest.mark.slow
def test_names_and_switches_are_searched_and_reported(tmp_path: Path, digits: Dataset) -> None:
    settings = SearchConfig(values=("optimizer=adamw,sgd", "recipe=baseline,strong-short", "decay_norms=true,false"))
    result = grid_search(BASE, settings, tmp_path, dataset=digits)
    assert result.winner is not None
    for row in result.records:
        run = RunDir(tmp_path / row.path).config()
        assert (run.recipe, run.train.optimizer) == (row.values["recipe"], row.values["optimizer"])
        assert run.architecture == BASE.architecture
    (search,) = write_report(tmp_path)[0].searches
    assert {trial.values["optimizer"] for trial in search.trials} == {"adamw", "sgd"}
    assert (tmp_path / "report" / "figures" / "grid_search_optimizer.png").is_file()


def test_a_crashed_run_is_reported_and_tried_again(
    tmp_path: Path, digits: Dataset, whole: tuple[Path, SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingLoop._record

    def crash(self: TrainingLoop, *arguments: Any) -> Any:
        if self.config.train.lr == 0.05:
            raise RuntimeError("out of memory")
        return step(self, *arguments)

    monkeypatch.setattr(TrainingLoop, "_record", crash)
    result = grid_search(BASE, SIX, tmp_path, dataset=digits)
    assert [row.state for row in result.records] == ["finished"] * 3 + ["failed"] * 3
    assert "out of memory" in (tmp_path / result.records[5].path / "error.txt").read_text()
    monkeypatch.undo()
    grid_search(BASE, SIX, tmp_path, dataset=digits)
    assert records(tmp_path) == records(whole[0])


# Going on


def lose(out: Path) -> None:
    (out / JOURNAL).unlink()


def lose_everything_but_the_runs(out: Path) -> None:
    for file in out.iterdir():
        if file.name == ".search":
            shutil.rmtree(file)
        elif file.name != "runs":
            file.unlink()


def truncate(out: Path) -> None:
    content = (out / JOURNAL).read_bytes()
    (out / JOURNAL).write_bytes(content[: len(content) // 2])


def damage(out: Path) -> None:
    lines = (out / JOURNAL).read_bytes().splitlines(keepends=True)
    (out / JOURNAL).write_bytes(b"".join([*lines[:5], b'{"op_code": 5, "tri\n', b"\x00\xff\n", *lines[6:]]))


def damage_records(out: Path) -> None:
    (out / RECORDS).write_text((out / RECORDS).read_text()[:-200])


@pytest.mark.parametrize(
    ("settings", "harm"),
    [
        (SIX, lose_everything_but_the_runs),
        (SIX, damage_records),
        *((PRUNED, harm) for harm in (lose, lose_everything_but_the_runs, truncate, damage, damage_records)),
    ],
)
def test_the_run_directories_are_enough(
    tmp_path: Path,
    digits: Dataset,
    whole: tuple[Path, SearchResult],
    adaptive: tuple[Path, SearchResult],
    settings: SearchConfig,
    harm: Callable[[Path], None],
) -> None:
    """Whatever became of Optuna's storage, and of the records: what is finished is not repeated, the rest is done."""
    out, before_harm = tmp_path / "search", adaptive[0] if settings is PRUNED else whole[0]
    shutil.copytree(before_harm, out)
    lost = out / records(out)["trials"][4]["path"]
    shutil.rmtree(lost)
    harm(out)
    before = starts(out)
    grid_search(BASE, settings, out, dataset=digits)
    assert records(out) == records(before_harm)
    assert starts(out) - before == {lost.name: 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "pruner"), [("tpe", "none"), ("tpe", "median"), ("random", "none"), ("random", "halving")]
)
def test_what_is_drawn_does_not_depend_on_interruptions(
    tmp_path: Path, digits: Dataset, sampler: Any, pruner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SearchConfig(
        sampler=sampler, pruner=pruner, trials=12, seeds=1, values=("lr=0.0001..0.3:log", "dim=4..9", "wd=0,0.1")
    )
    base = BASE.replace(epochs=2)
    grid_search(base, settings, tmp_path / "whole", dataset=digits)
    expected = records(tmp_path / "whole")
    values = [row["values"] for row in expected["trials"]]
    assert len({row["lr"] for row in values}) == 12
    assert {row["dim"] for row in values} <= set(range(4, 10))
    assert all(0.0001 <= row["lr"] <= 0.3 for row in values)
    assert {row["state"] for row in expected["trials"]} <= {"finished", "pruned"}
    assert (pruner == "none") == all(row["state"] == "finished" for row in expected["trials"])

    record, calls = TrainingLoop._record, [0]

    def stop(self: TrainingLoop) -> Any:
        calls[0] += 1
        if calls[0] % 4 == 0:
            raise [Interrupted(15), KeyboardInterrupt()][calls[0] % 8 == 0]
        return record(self)

    monkeypatch.setattr(TrainingLoop, "_record", stop)
    for attempt in range(20):
        if attempt % 3 == 1:
            (tmp_path / "pieces" / JOURNAL).unlink(missing_ok=sampler == "random" and pruner == "none")
        try:
            grid_search(base, settings, tmp_path / "pieces", dataset=digits)
            break
        except (Interrupted, KeyboardInterrupt):
            continue
    assert attempt > 2
    assert records(tmp_path / "pieces") == expected


@pytest.mark.slow
def test_pruned_runs_are_told_from_others(tmp_path: Path, digits: Dataset) -> None:
    """The good combinations come first, so that the bad ones have something to fall behind."""
    base = BASE.replace(epochs=4, batch_size=100, dim=16)
    settings = SearchConfig(values=("lr=0.05,0.04,0.03,0.06,0.02,1e-7,2e-7",), pruner="median", seeds=1)
    result = grid_search(base, settings, tmp_path, dataset=digits)
    pruned = [row for row in result.records if row.state == "pruned"]
    assert pruned
    assert {row.values["lr"] for row in pruned} >= {1e-7, 2e-7}
    for row in pruned:
        run = RunDir(tmp_path / row.path)
        summary = run.summary()
        assert summary is not None
        assert "after epoch" in summary.message
        assert len(run.metrics()) < 4
    # Whoever does not prune continues such a run, and gets what it would have been.
    row = pruned[-1]
    config = base.replace(**row.values)
    again = train(config, tmp_path / row.path, resume=True, dataset=digits)
    fresh = train(config, tmp_path / "fresh", dataset=digits)
    assert (again.status, again.test_loss) == ("finished", fresh.test_loss)


def test_more_combinations_take_over_what_is_there(
    tmp_path: Path, digits: Dataset, whole: tuple[Path, SearchResult]
) -> None:
    out = tmp_path / "search"
    shutil.copytree(whole[0], out)
    before = starts(out)
    more = SearchConfig(values=("lr=0.001,0.05,0.02", "wd=0.01,0.02,0.5"), seeds=1)
    result = grid_search(BASE, more, out, dataset=digits)
    assert len(result.records) == 9
    assert (starts(out) - before).total() == 3


@pytest.mark.parametrize("settings", [PRUNED, SearchConfig(values=("lr=0.001..0.1",), sampler="tpe", trials=3)])
def test_a_trial_whose_process_died_while_it_claimed_it_is_taken_over(
    tmp_path: Path, digits: Dataset, settings: SearchConfig
) -> None:
    """Before it could say who it is, or which number the trial has."""
    search = AdaptiveSearch(BASE, settings, tmp_path, dataset=digits)
    search.study.ask()
    search.work()
    search.leave()
    assert [row.number for row in search.records()] == list(range(settings.count()))
    assert {row.state for row in search.records()} == {"finished"}
    assert set(starts(tmp_path).values()) == {1}


def test_a_narrower_range_keeps_what_lies_within(tmp_path: Path, digits: Dataset) -> None:
    wide, narrow = (
        SearchConfig(values=(values,), sampler="random", trials=6, seeds=0) for values in ("lr=0..0.1", "lr=0..0.05")
    )
    first = {row.number: row.values["lr"] for row in grid_search(BASE, wide, tmp_path, dataset=digits).records}
    kept = {number: lr for number, lr in first.items() if lr <= 0.05}
    assert 0 < len(kept) < 6
    second = {row.number: row.values["lr"] for row in grid_search(BASE, narrow, tmp_path, dataset=digits).records}
    assert second | kept == second
    assert (len(second), max(second.values()) <= 0.05) == (6, True)
    assert len(starts(tmp_path)) == 12 - len(kept)


# Refusals


def test_another_search_in_the_same_directory_is_refused(
    tmp_path: Path, digits: Dataset, whole: tuple[Path, SearchResult]
) -> None:
    out = tmp_path / "search"
    shutil.copytree(whole[0], out)
    content = (out / RECORDS).read_bytes()
    others = [
        (BASE.replace(epochs=2), SIX, "epochs 1 → 2"),
        (BASE, SearchConfig(values=SIX.values, pruner="median"), "pruner none → median"),
        (BASE, SearchConfig(values=SIX.values, trial_seeds=2), "trial_seeds 1 → 2"),
    ]
    for base, settings, message in others:
        with pytest.raises(InputError, match=message):
            grid_search(base, settings, out, dataset=digits)
    assert (out / RECORDS).read_bytes() == content
    grid_search(BASE.replace(lr=0.3), SIX, out, dataset=digits)  # what is searched may have any default


@pytest.mark.parametrize("kind", [ListedSearch, AdaptiveSearch])
def test_processes_do_not_search_different_values_at_once(
    tmp_path: Path, digits: Dataset, kind: type[ListedSearch | AdaptiveSearch]
) -> None:
    first = kind(BASE, SIX, tmp_path, dataset=digits)
    with pytest.raises(InputError, match="another process searches other values"):
        kind(BASE, SearchConfig(values=("lr=0.1,0.2",)), tmp_path, dataset=digits)
    first.leave()
    kind(BASE, SearchConfig(values=("lr=0.1,0.2",)), tmp_path, dataset=digits).leave()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///trials.db", "'sqlite' is not a kind"),
        ("trials.db", "not a kind"),
        ("postgresql://nobody:secret@127.0.0.1:1/trials", "cannot be used"),
    ],
)
def test_storages_that_cannot_be_used(tmp_path: Path, digits: Dataset, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        grid_search(BASE, SearchConfig(values=SIX.values, pruner="median", storage=url), tmp_path, dataset=digits)
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_impossible_with_these_data(tmp_path: Path, digits: Dataset) -> None:
    with pytest.raises(InputError, match="does not divide the 8 pixels"):
        grid_search(BASE, SearchConfig(values=("patch_size=1,3",)), tmp_path, dataset=digits)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="choose another --out"):
        grid_search(BASE, SIX, tmp_path / "file" / "search", dataset=digits)
    train(BASE, tmp_path / "run", dataset=digits)
    with pytest.raises(InputError, match="is a run directory"):
        grid_search(BASE, SIX, tmp_path / "run", dataset=digits)


def test_a_search_without_a_name_finds_itself_again() -> None:
    path = default_search_path(BASE, SIX)
    assert path == default_search_path(BASE.replace(lr=0.7, checkpoint_minutes=3.0), SIX)
    others = [
        default_search_path(BASE.replace(epochs=9), SIX),
        default_search_path(BASE, SearchConfig(values=("lr=0.001,0.05",))),
        default_search_path(BASE, SearchConfig(values=SIX.values, sampler="random")),
        default_search_path(BASE, SearchConfig(values=SIX.values, pruner="median")),
    ]
    assert len({path, *others}) == 5


def test_optuna_can_read_the_storage(adaptive: tuple[Path, SearchResult]) -> None:
    """It stays an ordinary study, for whoever wants to look at it with Optuna's own tools."""
    backend = optuna.storages.journal.JournalFileBackend(str(adaptive[0] / JOURNAL))
    study = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert study.best_value == max(row.val_accuracy or 0 for row in adaptive[1].records)
    assert torch.get_num_threads() == 1
