"""The documents say what is true: shown commands run, made tables are up to date, links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from convmixer.config import DataConfig
from convmixer.experiments import PROFILES, Experiment
from convmixer.experiments.definition import plan
from tests.helpers import processes

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("results/**/README.md")),
]


@dataclass(frozen=True)
class Block:
    """A fenced block of code, and the comment in front of it that says how it is tested."""

    how: str
    language: str
    code: str


def blocks() -> list[Block]:
    found = re.findall(r"(?:<!-- ([^\n]*) -->\n)?```(bash|python)\n(.*?)```", README, flags=re.DOTALL)
    return [Block(*match) for match in found]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to run the README in: the root's own scripts, pictures of two kinds, `convmixer` on the path."""
    folder = tmp_path_factory.mktemp("readme")
    for script in ("train.py", "grid_search.py", "models.py"):
        (folder / script).write_text((ROOT / script).read_text())
    noise = np.random.default_rng(0)
    for kind, colour in (("cat", 60), ("dog", 190)):
        (folder / "pictures" / kind).mkdir(parents=True)
        for i in range(30):
            pixels = noise.integers(colour - 50, colour + 50, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pictures" / kind / f"{i}.jpg")
    return folder


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return processes.run_line(line, folder, {**os.environ, **nowhere, "PATH": path})


def test_every_block_says_how_it_is_tested() -> None:
    assert {block.how.partition(":")[0] for block in blocks()} == {
        "run",
        "run with pictures",
        "needs cifar10",
        "not run",
    }


@pytest.mark.slow
def test_shown_commands_run(workspace: Path) -> None:
    """In their order, as later ones use what earlier ones leave; every run ends with a result worth showing."""
    for block in blocks():
        if block.how not in ("run", "run with pictures"):
            continue
        if block.language == "python":
            done = processes.run(code=block.code, cwd=workspace)
            assert done.returncode == 0, f"{block.code}\n{done.stderr}"
            continue
        for line in block.code.splitlines():
            done = run(line, workspace)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    summaries = {path.parent: json.loads(path.read_text()) for path in workspace.rglob("summary.json")}
    accuracies = {path: values["test_accuracy"] for path, values in summaries.items() if values["test_accuracy"]}
    assert min(accuracies.values()) > 0.9, accuracies
    (claimed,) = re.findall(r"more than (\d+) % of the 359 test images", " ".join(README.split()))
    assert 100 * accuracies[workspace / "my-run"] > int(claimed)


@pytest.mark.slow
def test_commands_that_need_cifar10_say_what_to_do(workspace: Path) -> None:
    for block in blocks():
        for line in block.code.splitlines() if block.how == "needs cifar10" else []:
            done = run(line, workspace)
            assert done.returncode == 2, f"{line}\n{done.stderr}"
            assert "cifar-10-binary.tar.gz" in done.stderr.replace("\n", " ")
            assert "Traceback" not in done.stderr


def test_the_shown_experiment_is_one() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "experiments.md").read_text(), flags=re.DOTALL)
    assert len(shown.splitlines()) <= 25
    content: dict[str, Experiment] = {}
    exec(shown, content)
    experiment = content["EXPERIMENT"]
    for profile in PROFILES.values():
        rows = plan(experiment, profile, 1, DataConfig(dataset="digits"))
        assert len(rows) == 4
        assert {row.runs[0].architecture.activation for row in rows} == {"gelu", "relu"}


def test_the_makefile_has_the_shown_targets() -> None:
    targets = set(re.findall(r"\bmake ([a-z-]+)", README + (ROOT / "CONTRIBUTING.md").read_text()))
    assert {"demo", "test", "test-fast", "lint"} <= targets
    for target in targets:
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_readme_is_short_and_opens_with_results_and_how_to_begin() -> None:
    assert len(README.encode()) < 10_000
    first = README.partition("## ")[0]
    for part in ("made: claims", "architecture.svg", "pip install", "```python", "convmixer train", "engine="):
        assert part in first


def script(name: str) -> ModuleType:
    """A program of ``docs/``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_made_tables_are_up_to_date() -> None:
    module = script("figures")
    for document in module.MADE:
        assert module.filled(document) == document.read_text(), "run: python docs/figures.py"


def test_every_sentence_of_a_refusal_is_listed() -> None:
    module = script("errors")
    text = (ROOT / "docs" / "errors.md").read_text()
    assert module.filled(text) == text, "run: python docs/errors.py"
    for shown in (
        "- `--dataset: there is no folder <path>; give folder:PATH with an existing PATH.`",  # a text with parts
        "- `<path>: holds an unfinished run; add --resume to continue it, or choose another --out.`",  # by a variable
        "- `<path>: is missing; restore it, or if it is not needed, convmixer verify <folder> --accept.`",  # a function
        "- `<name>: <value> is out of range; give a value from <ge> to <le>.`",  # functions of functions
        "- `--trials: a grid tries every combination; leave it out, or choose --sampler tpe or random.`",  # _problems
        "| `ENOSPC` | … make room and try again; --resume continues a run |",
    ):
        assert shown in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_layers_are_kept() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


def pinned(file: str) -> set[str]:
    """The names of the packages in a file of exact versions."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line[0] not in "#-"]
    assert all("==" in line for line in lines)
    return {line.partition("==")[0].lower().replace("-", "_") for line in lines}


def test_exact_versions_cover_the_declared_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tools = project["optional-dependencies"]["dev"]
    for file, declared in ("requirements.txt", project["dependencies"]), ("requirements-dev.txt", tools):
        names = {re.split(r"[\[<>=~]", entry)[0].lower().replace("-", "_") for entry in declared}
        assert names <= pinned(file)
    assert not pinned("requirements.txt") & pinned("requirements-dev.txt")


def test_both_cis_run_the_same_commands() -> None:
    script = re.findall(r"^make .*", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    workflow = re.findall(r"- run: (.*)", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert script == workflow == ["make lint", "make test"]
