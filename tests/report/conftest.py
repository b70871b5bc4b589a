"""A study of tiny real runs, with everything in it that can go wrong with a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from convmixer.config import DataConfig
from convmixer.data import load_dataset
from convmixer.report.collect import Study, collect
from convmixer.report.compare import summarize
from convmixer.report.records import StudyRecord
from convmixer.runs import RunDir
from tests.helpers.studies import PUBLISHED, experiment, grid_search, trained, trial, write


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows base and wide of two seeds; a missing, an unreadable and an interrupted run; three search trials."""
    root = tmp_path_factory.mktemp("studies") / "tiny <study>"
    data = load_dataset(DataConfig(dataset="digits"))
    base = [trained(root, f"base-{seed}", data, seed=seed) for seed in range(2)]
    wide = [trained(root, f"wide-{seed}", data, seed=seed, dim=24) for seed in range(2)]
    for name in ("unreadable", "interrupted"):
        shutil.copytree(root / "runs" / "base-0", root / "runs" / name)
        RunDir(root / "runs" / name).reopen()
    (root / "runs" / "unreadable" / "config.json").write_text('{"seed": ')
    broken = [{"seed": i, "path": f"runs/{name}"} for i, name in enumerate(("missing", "unreadable", "interrupted"))]
    rows = [
        {"label": "base", "changes": {}, "published": PUBLISHED, "runs": base},
        {"label": "wide & <bold>", "changes": {"dim": 24}, "published": None, "runs": wide},
        {"label": "broken", "changes": {"dim": 99}, "published": PUBLISHED, "runs": broken},
    ]
    write(root / "experiments" / "width.json", experiment("width", rows))
    slow = trained(root, "trial-0", data, lr=0.002)
    trials = [trial(root, 0, 0.002, slow["path"]), trial(root, 1, 0.02, base[0]["path"]), trial(root, 2, 0.2, None)]
    write(root / "grid_search.json", grid_search(trials, base))
    return root


@pytest.fixture(scope="session")
def study(study_folder: Path) -> Study:
    return collect(study_folder)


@pytest.fixture(scope="session")
def record(study: Study) -> StudyRecord:
    return summarize(study, "convmixer report")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The study takes seconds to train, in every process."""
    for item in items:
        if "study_folder" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
