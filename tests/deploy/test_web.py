"""The page in a browser: the very pixels of training, the run's answers, and nothing from anywhere else."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convmixer.data import Dataset
from convmixer.data.images import prepared
from convmixer.deploy import web
from convmixer.deploy.check import made_images
from convmixer.deploy.web import MAPS, PAGE, RUNTIME, export_site
from convmixer.errors import InputError
from convmixer.files import cache_dir
from convmixer.inference.cam import class_activation_map
from convmixer.inference.model_file import open_model_file
from convmixer.inference.torch_predictor import load
from convmixer.training import train
from tests.helpers.cli import Run
from tests.helpers.runs import tiny_config

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ARCHIVE = os.environ.get("CONVMIXER_TEST_ORT_WEB")  # npm pack onnxruntime-web@VERSION
SITE = Path(web.__file__).parent / "site"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> Path:
    out = tmp_path_factory.mktemp("web") / "run"
    train(tiny_config(dim=16, depth=2, epochs=1), out, dataset=digits, artifacts=False)
    return out


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as package:
        for name, content in ({f"dist/{name}": name.encode() for name in RUNTIME} | {"package.json": b"{}"}).items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            package.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def integrity(content: bytes) -> str:
    return f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in for the runtime is in the cache, so that npm is not asked."""
    content = archive()
    monkeypatch.setenv("CONVMIXER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(web, "INTEGRITY", integrity(content))
    monkeypatch.setenv("PATH", str(tmp_path))
    cache_dir().mkdir(parents=True)
    (cache_dir() / f"{web.PACKAGE}-{web.VERSION}.tgz").write_bytes(content)


@pytest.mark.usefixtures("cached")
def test_a_site_is_whole_and_asks_for_nothing_from_elsewhere(trained: Path, tmp_path: Path) -> None:
    made = export_site(trained, tmp_path / "site")
    files = {str(file.relative_to(made.folder)) for file in made.folder.rglob("*") if file.is_file()}
    runtime = {f"ort/{name}" for name in (*RUNTIME, "package.json")}
    assert files - {f"sample-{i}.png" for i in range(1, 9)} == {*PAGE, "model.onnx", "model.json"} | runtime
    about = json.loads((made.folder / "model.json").read_text())
    assert about["model"]["classes"] == list("0123456789")
    assert [(made.folder / name).is_file() for name in about["samples"]] == [True] * 8
    for name in PAGE:
        text = (made.folder / name).read_text()
        addresses = re.findall(r"https?:\S*|//\w[\w.-]+\.\w{2,}\S*", text)
        assert [one for one in addresses if not one.startswith("https://` or")] in ([], ["https://"])
        assert "innerHTML" not in text
    export_site(trained, tmp_path / "site")  # replaced


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("head", ["linear", "lc", "rh"])
def test_maps_are_the_runs_own_and_left_out_where_they_are_not_exact(
    tmp_path: Path, digits: Dataset, head: str
) -> None:
    train(tiny_config(dim=16, depth=2, epochs=1, head=head), tmp_path / "run", dataset=digits, artifacts=False)
    made = export_site(tmp_path / "run", tmp_path / "site")
    assert made.maps == (head != "rh")
    session = onnxruntime.InferenceSession(tmp_path / "site" / "model.onnx")
    assert (MAPS in [output.name for output in session.get_outputs()]) == made.maps
    if not made.maps:
        return
    predictor = load(tmp_path / "run")
    images = made_images(predictor.input, 5)
    logits, maps = session.run(["logits", MAPS], {"images": images})
    deployed = predictor.deployed
    expected = class_activation_map(deployed.model, deployed.normalize(as_tensor(images)))
    found = maps[np.arange(5), logits.argmax(1)]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4)
    gap = logits - maps.mean((2, 3))  # the head's bias
    np.testing.assert_allclose(gap, np.broadcast_to(gap[:1], gap.shape), rtol=1e-3, atol=1e-3)


def as_tensor(images: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(images)


NPM = {
    "fails": ("echo 'npm error code ENOTFOUND' >&2; exit 1", "npm cannot fetch onnxruntime-web"),
    "another": ("echo x > $4/onnxruntime-web.tgz", "is not the onnxruntime-web"),
    "nothing": ("exit 0", "npm cannot fetch"),
}


@pytest.mark.parametrize("how", [*NPM, "missing"])
def test_without_the_runtime_there_is_one_sentence_and_no_site(
    trained: Path, tmp_path: Path, convmixer: Run, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("CONVMIXER_CACHE", str(tmp_path / "cache"))
    script, words = NPM.get(how, ("", "install Node.js"))
    if script:
        (tmp_path / "bin" / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    status, out, err = convmixer("export", trained, "--format", "web", "--out", "site")
    assert (status, out) == (2, "")
    assert words in err
    assert sorted(path.name for path in tmp_path.iterdir()) in (["bin"], ["bin", "cache"])


@pytest.mark.usefixtures("cached")
def test_other_files_are_not_replaced(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").touch()
    for place, words in (("mine", "holds other files"), ("missing/site", "is no folder")):
        with pytest.raises(InputError, match=words):
            export_site(trained, tmp_path / place)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["index.html"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_pixels_are_those_of_training(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shutil.copy(SITE / "pixels.js", tmp_path / "pixels.mjs")
    sizes = [(8, 8), (8, 9), (9, 8), (1, 1), (1, 40), (33, 7), (32, 32), (64, 48), (100, 333), (501, 320)]
    sizes += [(int(width), int(height)) for width, height in random.integers(1, 200, (120, 2))]
    cases, expected = [], []
    for number, (width, height) in enumerate(sizes):
        size, channels = (8, 32, 5)[number % 3], (3, 1)[number % 2]
        pixels = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        if number % 4 == 0:
            pixels = (pixels > 127).astype(np.uint8) * 255  # overshoots everywhere
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., :3]).save(buffer, "png")
        expected.append(prepared(buffer.getvalue(), size, channels).reshape(-1).tolist())
        (tmp_path / f"{number}.raw").write_bytes(pixels.tobytes())
        cases.append([number, width, height, size, channels])
    script = f"""
        import {{ readFileSync }} from "fs";
        import {{ prepared }} from "./pixels.mjs";
        const answers = {json.dumps(cases)}.map(([number, width, height, size, channels]) => {{
          const data = new Uint8Array(readFileSync(number + ".raw"));
          return Array.from(prepared({{ width, height, data }}, size, channels));
        }});
        console.log(JSON.stringify(answers));
    """
    (tmp_path / "run.mjs").write_text(script)
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for case, own, found in zip(cases, expected, json.loads(done.stdout), strict=True):
        assert found == own, case


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page of a run on real pictures, served."""
    pictures = os.environ.get("CONVMIXER_TEST_IMAGES")
    if not pictures or not ARCHIVE:
        pytest.skip("needs CONVMIXER_TEST_IMAGES, and CONVMIXER_TEST_ORT_WEB: the archive of onnxruntime-web")
    root = tmp_path_factory.mktemp("served")
    for split, count in (("train", 20), ("test", 24)):
        for folder in sorted((Path(pictures) / split).iterdir()):
            (root / "pictures" / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                shutil.copy(file, root / "pictures" / split / folder.name)
    config = tiny_config(dataset=f"folder:{root / 'pictures'}", dim=32, depth=2, epochs=2, batch_size=32)
    train(config, root / "run", artifacts=False)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(web, "runtime_archive", lambda: Path(ARCHIVE))
        export_site(root / "run", root / "site")
    handler = functools.partial(_Quiet, directory=str(root / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html", root
    server.shutdown()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.mark.slow
def test_the_browser_answers_as_python_does(address: tuple[str, Path], browser: Any) -> None:
    url, root = address
    context, complaints, elsewhere = browser.new_context(), list[str](), list[str]()
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda asked: elsewhere.append(asked.url))
    tab.goto(url)
    tab.wait_for_selector("#samples button")
    files = sorted((root / "pictures" / "test").rglob("*.*"))
    assert len(files) >= 200
    predictor = open_model_file(root / "site" / "model.onnx")
    images = np.stack([prepared(file, predictor.input.image_size, 3) for file in files])
    logits = predictor.logits(images)
    same = 0
    for file, own, expected in zip(files, images, logits, strict=True):
        content = base64.b64encode(file.read_bytes()).decode()
        found = tab.evaluate(
            """async (content) => {
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                const found = await convmixer.classify(new Blob([bytes]));
                return { pixels: Array.from(found.pixels), logits: found.logits };
            }""",
            content,
        )
        assert found["pixels"] == own.reshape(-1).tolist(), file
        np.testing.assert_allclose(found["logits"], expected, atol=1e-3)
        same += int(np.argmax(found["logits"])) == int(expected.argmax())
    assert same == len(files)
    context.close()
    assert complaints == []
    assert [one for one in elsewhere if not one.startswith((url.removesuffix("index.html"), "blob:", "data:"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_person_gives_a_picture_and_reads_the_answer(
    address: tuple[str, Path], browser: Any, width: int, scheme: str, tmp_path: Path
) -> None:
    url, root = address
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab, complaints = context.new_page(), list[str]()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(url)
    tab.wait_for_selector("#samples button")
    picture = next((root / "pictures" / "test").rglob("*.*"))
    tab.set_input_files("#file", picture)
    tab.wait_for_selector("#answers li:nth-child(5)")
    assert picture.name in tab.inner_text("#seen")
    tab.check("#show")
    assert tab.is_visible("#map")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    tab.set_input_files("#file", tmp_path / "broken.jpg")
    tab.wait_for_selector("#status.bad")
    assert "broken.jpg cannot be used" in tab.inner_text("#status")
    tab.focus("#samples button")
    tab.keyboard.press("Enter")
    tab.wait_for_selector('#seen:has-text("Picture 1, as")')
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    if folder := os.environ.get("CONVMIXER_TEST_SHOTS"):
        tab.screenshot(path=Path(folder) / f"web-{width}-{scheme}.png", full_page=True)
    context.close()
    assert complaints == []
