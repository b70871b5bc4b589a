"""What people install and start with: the wheel, the container, the notebook."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from convmixer.runtime.progress import draws_bars
from convmixer.version import __version__

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def normalised(requirement: str) -> str:
    """A requirement without its conditions, its name as the index spells it."""
    return requirement.partition(";")[0].split()[0].lower().replace("_", "-").replace(".", "-")


def test_the_lock_has_the_tested_versions_and_the_sums_of_their_files() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    sums = re.compile(r"^(\S+==\S+).*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)
    entries = {normalised(requirement): hashes for requirement, hashes in sums.findall(lock)}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert sorted(entries) == sorted(normalised(line) for line in lines if not line.startswith("#"))
    assert len(entries) == len(re.findall(r"^\w", lock, re.MULTILINE))
    (cpu,) = re.findall(r"^TORCH_CPU := (\w+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (torch,) = (hashes for requirement, hashes in entries.items() if requirement.startswith("torch=="))
    assert cpu in torch


def run(*command: object, cwd: Path, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("*.egg-info", "__pycache__")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(distributions: tuple[Path, Path]) -> None:
    sdist, wheel = distributions
    package = ROOT / "src" / "convmixer"
    files = {path.relative_to(ROOT / "src").as_posix() for path in package.rglob("*") if path.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    assert {"convmixer/py.typed", "convmixer/kernels/native/convmixer.cpp"} <= files
    assert any(name.startswith("convmixer/report/templates/") for name in files)
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not re.match(r"[^/]*\.dist-info/", name)}
    assert held == files
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in files} | {"LICENSE", "README.md", "pyproject.toml"} <= names
    assert "tests" not in {name.partition("/")[0] for name in names}


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_of_its_own(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    """Its dependencies are those installed here; this repository is out of sight."""
    venv.create(tmp_path / "venv", with_pip=False)
    python, command = tmp_path / "venv/bin/python", tmp_path / "venv/bin/convmixer"
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", distributions[1], cwd=tmp_path)
    # a path file adds a folder without reading the path files in it, which name the repository
    (packages / "dependencies.pth").write_text(str(Path(pytest.__file__).parents[1]))
    where = run(python, "-c", "import convmixer; print(convmixer.__file__, convmixer.__version__)", cwd=tmp_path)
    assert where.split() == [str(packages / "convmixer" / "__init__.py"), __version__]
    assert "train" in run(command, "--help", cwd=tmp_path)
    assert "convmixer_256_8_k5" in run(command, "models", "--json", cwd=tmp_path)


@pytest.mark.slow
def test_package_indexes_take_the_distributions(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("twine")
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions, cwd=tmp_path)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile, an instruction a line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2]) for line in text.splitlines() if line]


def test_the_container_is_pinned_unprivileged_and_small() -> None:
    lines = instructions()
    bases = [rest.split()[0] for name, rest in lines if name == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", base) for base in bases)
    assert [rest for name, rest in lines if name == "USER"] == ["1000:1000"]
    last = [name for name, _ in lines]
    assert last.index("USER") > max(i for i, name in enumerate(last) if name == "RUN")
    assert dict(lines)["ENTRYPOINT"] == '["convmixer"]'
    assert any("-r requirements.txt" in rest for name, rest in lines if name == "RUN")


def test_the_container_copies_what_there_is_and_nothing_else_is_sent() -> None:
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    sources = {source for line in copied for source in line}
    assert all((ROOT / source).exists() for source in sources)
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources
    assert "*" in rules


@pytest.mark.skipif(not shutil.which("hadolint"), reason="needs hadolint")
def test_hadolint() -> None:
    run("hadolint", "Dockerfile", cwd=ROOT)


def cells() -> list[dict[str, Any]]:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    found: list[dict[str, Any]] = notebook["cells"]
    return found


def test_the_notebook_holds_no_outputs() -> None:
    assert len({cell["id"] for cell in cells()}) == len(cells())
    for cell in cells():
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """From top to bottom, without the cell that installs."""
    codes = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    magic, *codes = codes
    assert magic.startswith("%pip install")
    assert not any(line.startswith(("%", "!")) for code in codes for line in code.splitlines())
    source = str(ROOT / "src")
    out = run(sys.executable, "-c", "\n".join(codes), cwd=tmp_path, PYTHONPATH=source, OMP_NUM_THREADS="1")
    (accuracy,) = re.findall(r"([\d.]+)% of the test images", out)
    assert float(accuracy) > 95
    assert "Open in a browser: runs/report/report.html" in out.replace("\n", " ")
    assert (tmp_path / "runs/report/report.html").is_file()


def test_bars_are_drawn_on_terminals_and_in_notebooks_with_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    notebook = Console(force_jupyter=True)
    assert draws_bars(Console(force_terminal=True))
    assert not draws_bars(Console(file=sys.__stderr__, force_terminal=False))
    assert not draws_bars(notebook)
    installed.append("ipywidgets")
    assert draws_bars(notebook)
