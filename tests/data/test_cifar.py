"""CIFAR from tiny sets in the official forms, with checksums and sums of their own, through the very same code."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from convmixer.config import DataConfig
from convmixer.data import Dataset, cifar, download, load_dataset
from convmixer.data.cifar_specs import SPECS, CifarSpec, Content, Form
from convmixer.data.collection import Collection, Part, channel_sums
from convmixer.errors import InputError

CLASSES = ("cat", "dog", "ship")
PER_CLASS = {"train": 10, "test": 2}


# --- a tiny official set ---------------------------------------------------------------------------------------------


def python2_pickle(value: Any, *, module: str = "numpy.core.multiarray", name: str = "_reconstruct") -> bytes:
    """Pickles as Python 2 and an old NumPy did, which today's Python cannot."""

    def text(content: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(content)) + content

    def write(item: Any) -> bytes:
        if isinstance(item, dict):
            return b"}(" + b"".join(write(k) + write(v) for k, v in item.items()) + b"u"
        if isinstance(item, list):
            return b"](" + b"".join(map(write, item)) + b"e"
        if isinstance(item, int):
            return b"J" + struct.pack("<i", item)
        if isinstance(item, str):
            return text(item.encode())
        shape = b"".join(map(write, item.shape))
        dtype = (
            b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN" + 2 * write(-1) + b"K\x00tb"
        )
        made = f"c{module}\n{name}\n".encode() + b"(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
        return made + b"(K\x01(" + shape + b"t" + dtype + b"\x89" + text(item.tobytes()) + b"tb"

    return b"\x80\x02" + write(value) + b"."


@dataclass
class Official:
    """Files of a set in both forms, and the specification they fulfil."""

    name: str
    spec: CifarSpec
    files: dict[str, dict[str, bytes]]
    """Form's folder -> file -> content."""
    archives: dict[str, bytes]
    images: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def place(self, form: Form, folder: Path, *, unpacked: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if not unpacked:
            (folder / form.archive).write_bytes(self.archives[form.archive])
            return folder / form.archive
        (folder / form.folder).mkdir()
        for name, content in self.files[form.folder].items():
            (folder / form.folder / name).write_bytes(content)
        return folder / form.folder


def make_official(name: str) -> Official:
    random = np.random.default_rng(0)
    original = SPECS[name]
    labels = {part: random.permutation(np.repeat(np.arange(3), n)) for part, n in PER_CLASS.items()}
    images = {part: random.integers(0, 256, (len(known), 3072), dtype=np.uint8) for part, known in labels.items()}
    binary: dict[str, bytes] = {original.binary.names: "".join(f"{c}\n" for c in CLASSES).encode() + b"\n"}
    python: dict[str, bytes] = {
        original.python.names: python2_pickle({original.names_key: list(CLASSES), "num_vis": 3072})
    }
    for part in PER_CLASS:
        names = zip(original.binary.files[part], original.python.files[part], strict=True)
        count = len(original.binary.files[part])
        pixels, numbers = np.split(images[part], count), np.split(labels[part].astype(np.uint8), count)
        for (binary_name, python_name), x, y in zip(names, pixels, numbers, strict=True):
            coarse = [np.full_like(y, 9)] * (original.label_bytes - 1)
            binary[binary_name] = np.column_stack([*coarse, y, x]).tobytes()
            python[python_name] = python2_pickle({"batch_label": "x", original.label_key: y.tolist(), "data": x})
    return seal(
        Official(name, original, {original.binary.folder: binary, original.python.folder: python}, {}, images, labels)
    )


def seal(official: Official) -> Official:
    """Packs the files, and brings the specification up to date with them."""
    spec = official.spec
    forms = {}
    for form in (spec.binary, spec.python):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, content in [("readme.html", b"<html>"), *official.files[form.folder].items()]:
                member = tarfile.TarInfo(f"{form.folder}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        official.archives[form.archive] = packed.getvalue()
        known = {name: md5(official.files[form.folder][name]) for name in form.file_md5}
        forms[form.archive] = replace(form, md5=md5(packed.getvalue()), file_md5=known)
    known_content = {}
    for part, pixels in official.images.items():
        known_content[part] = Content(PER_CLASS[part], *channel_sums(pixels.reshape(-1, 3, 32, 32)))
    official.spec = replace(
        spec,
        classes=CLASSES,
        binary=forms[spec.binary.archive],
        python=forms[spec.python.archive],
        content=known_content,
        urls=(),
    )
    return official


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture(params=["cifar10", "cifar100"])
def official(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Official:
    made = make_official(request.param)
    monkeypatch.setitem(SPECS, made.name, made.spec)
    monkeypatch.setattr(download, "_PAUSE", 0.01)
    return made


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Official:
    """One of the sets, where the other would add nothing."""
    made = make_official("cifar10")
    monkeypatch.setitem(SPECS, made.name, made.spec)
    monkeypatch.setattr(download, "_PAUSE", 0.01)
    return made


def load(official: Official, folder: Path, **options: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=official.name, data_dir=str(folder), **options))


def refused(official: Official, folder: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(official, folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


FORMS = [(form, unpacked) for form in ("binary", "python") for unpacked in (False, True)]


# --- what is on disk -------------------------------------------------------------------------------------------------


class TestOnDisk:
    def test_no_pickle_is_read_before_all_checksums_are_right(self, tiny: Official, tmp_path: Path, monkeypatch):
        monkeypatch.setattr(cifar, "_Unpickler", lambda *_, **__: pytest.fail("was read"))
        folder = tiny.place(tiny.spec.python, tmp_path / "unpacked", unpacked=True)
        damage_file(folder / tiny.spec.python.names, "flipped")
        assert "MD5" in refused(tiny, folder.parent)
        damage_file(tiny.place(tiny.spec.python, tmp_path / "packed"), "flipped")
        assert "MD5" in refused(tiny, tmp_path / "packed")

    def test_all_forms_give_the_same(self, official: Official, tmp_path: Path):
        loaded = []
        for form, unpacked in FORMS:
            for place in ("", "sub"):
                folder = tmp_path / f"{form}{unpacked}{place}"
                official.place(getattr(official.spec, form), folder / place, unpacked=unpacked)
                loaded.append(load(official, folder, val_fraction=0.0))
        for part in ("train", "test"):
            assert loaded[0].splits[part].images.reshape(-1, 3072).numpy().tolist() == official.images[part].tolist()
            assert loaded[0].splits[part].labels.tolist() == official.labels[part].tolist()
        info = loaded[0].info
        assert all(other.info == info for other in loaded)
        assert (info.name, info.classes, info.channels, info.image_size, info.mirror) == (
            official.name,
            CLASSES,
            3,
            32,
            True,
        )
        assert load(official, tmp_path / "binaryFalse").info.sizes == {"train": 27, "val": 3, "test": 6}

    def test_archive_goes_before_unpacked(self, tiny: Official, tmp_path: Path):
        tiny.place(tiny.spec.binary, tmp_path)
        broken = tiny.place(tiny.spec.python, tmp_path, unpacked=True)
        (broken / "data_batch_1").unlink()
        load(tiny, tmp_path)

    @pytest.mark.parametrize("form", ["binary", "python"])
    @pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
    def test_damaged_archive(self, official: Official, tmp_path: Path, form: str, damage: str):
        path = official.place(getattr(official.spec, form), tmp_path)
        path.write_bytes(damaged(path.read_bytes(), damage))
        message = refused(official, tmp_path)
        assert str(path) in message
        assert getattr(official.spec, form).md5 in message
        assert "delete it" in message

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing"])
    def test_damaged_file_of_the_python_form(self, official: Official, tmp_path: Path, damage: str):
        form = official.spec.python
        folder = official.place(form, tmp_path, unpacked=True)
        for name in (form.files["train"][-1], form.files["test"][0], form.names):
            content = (folder / name).read_bytes()
            damage_file(folder / name, damage)
            message = refused(official, tmp_path)
            assert str(folder / name) in message
            assert "delete" in message
            (folder / name).write_bytes(content)
        load(official, tmp_path)

    @pytest.mark.parametrize("damage", ["truncated", "pixel", "label", "names", "empty", "missing", "longer"])
    def test_damaged_file_of_the_binary_form(self, official: Official, tmp_path: Path, damage: str):
        form = official.spec.binary
        folder = official.place(form, tmp_path, unpacked=True)
        for name in (form.names,) if damage == "names" else (form.files["train"][0], form.files["test"][0]):
            content = (folder / name).read_bytes()
            damage_file(folder / name, damage, position=official.spec.label_bytes - 1 if damage == "label" else -1)
            message = refused(official, tmp_path)
            assert str(folder) in message
            (folder / name).write_bytes(content)
        load(official, tmp_path)

    def test_a_pipe_in_place_of_a_file_is_not_waited_for(self, official: Official, tmp_path: Path):
        folder = official.place(official.spec.binary, tmp_path, unpacked=True)
        name = official.spec.binary.files["train"][0]
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert str(folder / name) in refused(official, tmp_path)

    @pytest.mark.parametrize("what", ["labels", "negative", "names", "test pixels", "train pixels"])
    def test_content_is_checked_last(self, tiny: Official, what: str):
        splits = {part: Part(tiny.images[part].reshape(-1, 3, 32, 32), tiny.labels[part]) for part in PER_CLASS}
        collection = Collection("cifar10", CLASSES, splits, mirror=True)
        cifar.check_content(tiny.spec, collection, "here")
        if what == "names":
            collection = replace(collection, classes=("cat", "dog", "boat"))
        elif what in ("labels", "negative"):
            splits["test"].labels[0] = -1 if what == "negative" else (splits["test"].labels[0] + 1) % 3
        else:
            pixels = splits[what.split()[0]].images
            pixels[0, 0, 0, 0] = 255 - pixels[0, 0, 0, 0]
        with pytest.raises(InputError, match=r"^here: these are not the images of CIFAR-10 .* remove this copy"):
            cifar.check_content(tiny.spec, collection, "here")

    @pytest.mark.parametrize(("module", "name"), [("os", "system"), ("builtins", "eval"), ("numpy", "load")])
    def test_pickle_names_nothing_but_arrays(self, tiny: Official, tmp_path: Path, module: str, name: str):
        first = tiny.files[tiny.spec.python.folder]
        first["data_batch_1"] = python2_pickle({"data": np.zeros((2, 2), np.uint8)}, module=module, name=name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SPECS, tiny.name, seal(tiny).spec)
            tiny.place(tiny.spec.python, tmp_path)
            assert f"it names {module}.{name}" in refused(tiny, tmp_path)

    def test_unreadable_places(self, tiny: Official, tmp_path: Path):
        (tmp_path / "file").write_text("")
        assert "--data-dir" in refused(tiny, tmp_path / "file")


def damaged(content: bytes, how: str) -> bytes:
    middle = len(content) // 2
    return {
        "truncated": content[:middle],
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "empty": b"",
        "longer": content + b"x",
        "names": content.replace(b"dog", b"dug"),
    }[how]


def damage_file(path: Path, how: str, position: int = -1) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how in ("pixel", "label"):
        changed = bytearray(content)
        changed[position] = (changed[position] + 1) % (3 if how == "label" else 256)
        path.write_bytes(changed)
    else:
        path.write_bytes(damaged(content, how))


# --- downloads -------------------------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves ``files``; each request is answered as the next word of ``plan`` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.plan: list[str] = []
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        behaviour = self.server.plan.pop(0) if self.server.plan else "ok"
        content = self.server.files.get(self.path.partition("?")[0])
        if behaviour.isdigit() or content is None:
            self.send_error(int(behaviour) if behaviour.isdigit() else 404)
            return
        if behaviour == "corrupt":
            content = damaged(content, "flipped")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start + (behaviour == 'shifted')}-{len(content) - 1}/{len(content)}"
            )
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        self.wfile.write(rest[: len(rest) // 2] if behaviour == "drop" else rest)
        if behaviour == "slow":
            time.sleep(0.2)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def serve(server: Server, official: Official, *forms: str) -> None:
    for form in forms or ("binary", "python"):
        archive = getattr(official.spec, form).archive
        server.files[f"/{archive}"] = official.archives[archive]


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


class TestDownload:
    def test_known_sources_are_tried_in_order(self, official: Official, server: Server, tmp_path: Path, monkeypatch):
        serve(server, official)
        binary, python = official.spec.binary.archive, official.spec.python.archive
        urls = (f"{server.url}/gone/{binary}", f"{server.url}/{python}", f"{server.url}/{binary}")
        monkeypatch.setitem(SPECS, official.name, replace(official.spec, urls=urls))
        load(official, tmp_path / "new" / "data")
        assert [path for path, _ in server.requests] == [f"/gone/{binary}", f"/{python}"]
        assert leftovers(tmp_path / "new" / "data") == [python]
        load(official, tmp_path / "new" / "data")
        assert len(server.requests) == 2

    @pytest.mark.parametrize("form", ["binary", "python"])
    def test_source_is_an_archive_or_its_folder(self, tiny: Official, server: Server, tmp_path: Path, form: str):
        serve(server, tiny, form)
        archive = getattr(tiny.spec, form).archive
        load(tiny, tmp_path / "a", source=f"{server.url}/{archive}?token=1")
        load(tiny, tmp_path / "b", source=f"{server.url}/")
        load(tiny, tmp_path / "c", source=f"{server.url}/{archive}")
        assert [leftovers(tmp_path / name) for name in "abc"] == [[archive]] * 3

    def test_source_on_disk(self, tiny: Official, tmp_path: Path):
        archive = tiny.place(tiny.spec.python, tmp_path / "there")
        load(tiny, tmp_path / "a", source=archive.as_uri())
        load(tiny, tmp_path / "b", source=archive.parent.as_uri())
        message = refused(tiny, tmp_path / "c", source=(tmp_path / "nowhere").as_uri())
        assert "No such file" in message

    def test_dropped_connections_are_continued(self, tiny: Official, server: Server, tmp_path: Path):
        serve(server, tiny, "binary")
        server.plan = ["drop", "drop", "503", "drop", "ok"]
        load(tiny, tmp_path, source=server.url)
        content = tiny.archives[tiny.spec.binary.archive]
        halves = [len(content) // 2]
        for _ in range(2):
            halves.append(halves[-1] + (len(content) - halves[-1]) // 2)
        assert [asked for _, asked in server.requests] == [
            None, f"bytes={halves[0]}-", f"bytes={halves[1]}-", f"bytes={halves[1]}-", f"bytes={halves[2]}-",
        ]  # fmt: skip
        assert leftovers(tmp_path) == [tiny.spec.binary.archive]

    def test_an_interrupted_download_is_continued_by_the_next(self, tiny: Official, server: Server, tmp_path: Path):
        serve(server, tiny, "binary")
        archive = tiny.spec.binary.archive
        server.plan = ["drop", "404", "404"]
        refused(tiny, tmp_path, source=server.url)
        assert leftovers(tmp_path) == [f"{archive}.part"]
        server.requests.clear()
        load(tiny, tmp_path, source=server.url)
        assert [asked for _, asked in server.requests] == [f"bytes={len(tiny.archives[archive]) // 2}-"]

    @pytest.mark.parametrize(
        ("part", "requests"),
        [
            (lambda content: b"other" * 10, ["bytes=50-", None]),
            (lambda content: content, ["bytes={n}-"]),
            (lambda content: content + b"more", ["bytes={m}-", None]),
        ],
        ids=["of another file", "complete", "too long"],
    )
    def test_what_is_left_of_earlier(self, tiny: Official, server: Server, tmp_path: Path, part, requests):
        serve(server, tiny, "binary")
        archive = tiny.spec.binary.archive
        content = tiny.archives[archive]
        (tmp_path / f"{archive}.part").write_bytes(part(content))
        load(tiny, tmp_path, source=server.url)
        expected = [r and r.format(n=len(content), m=len(content) + 4) for r in requests]
        assert [asked for _, asked in server.requests] == expected
        assert leftovers(tmp_path) == [archive]

    def test_servers_that_cannot_continue(self, tiny: Official, server: Server, tmp_path: Path):
        serve(server, tiny, "binary")
        server.ranges, server.plan = False, ["drop"]
        load(tiny, tmp_path / "a", source=server.url)
        server.ranges, server.plan = True, ["drop", "shifted"]
        load(tiny, tmp_path / "b", source=server.url)

    def test_corrupt_file_is_not_kept(self, tiny: Official, server: Server, tmp_path: Path):
        serve(server, tiny, "binary")
        server.plan = ["corrupt"]
        message = refused(tiny, tmp_path, source=f"{server.url}/{tiny.spec.binary.archive}")
        assert "127.0.0.1: it gave a file with another checksum" in message
        assert leftovers(tmp_path) == []

    def test_passing_troubles_are_waited_out_and_lasting_ones_are_not(
        self, tiny: Official, server: Server, tmp_path: Path
    ):
        serve(server, tiny, "binary")
        source = f"{server.url}/{tiny.spec.binary.archive}"
        server.plan = ["503", "429"]
        load(tiny, tmp_path / "a", source=source)
        assert len(server.requests) == 3
        for plan, count, reason in (
            (["503"] * 9, 3, "HTTP 503"),
            (["403"] * 9, 1, "HTTP 403"),
            (["404"] * 9, 1, "HTTP 404"),
        ):
            server.plan = plan
            server.requests.clear()
            assert reason in refused(tiny, tmp_path / "b", source=source)
            assert len(server.requests) == count

    def test_without_network_one_sentence_says_what_to_do(self, official: Official, tmp_path: Path, monkeypatch):
        urls = tuple(f"https://mirror{i}.invalid/{official.spec.binary.archive}" for i in range(3))
        monkeypatch.setitem(SPECS, official.name, replace(official.spec, urls=urls))

        def unknown(*args: object, **kwargs: object) -> None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        started = time.monotonic()
        message = refused(official, tmp_path)
        assert time.monotonic() - started < 1
        assert message.count("mirror") == 1  # without names, no other host can be found either
        for needed in (official.name, official.spec.binary.archive, official.spec.python.archive, str(tmp_path)):
            assert needed in message
        assert "--source" in message
        assert "--dataset digits" in message

    def test_unreachable_hosts_cost_no_time(self, tiny: Official, tmp_path: Path):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            started = time.monotonic()
            message = refused(tiny, tmp_path, source=f"http://127.0.0.1:{unused.getsockname()[1]}/x.tar.gz")
        assert "refused" in message
        assert time.monotonic() - started < 1

    @pytest.mark.parametrize("source", ["data/cifar.tar.gz", "ftp://host/x", "http://[bad", "HUB", ""])
    def test_impossible_source(self, tiny: Official, tmp_path: Path, source: str):
        assert refused(tiny, tmp_path, source=source).startswith(f"--source: {source!r} is not an https://")

    def test_folder_that_cannot_be_written(self, tiny: Official, server: Server, tmp_path: Path):
        serve(server, tiny, "binary")
        (tmp_path / "file").write_text("")
        assert "--data-dir" in refused(tiny, tmp_path / "file" / "sub", source=server.url)
        (tmp_path / f"{tiny.spec.binary.archive}.part").mkdir()
        message = refused(tiny, tmp_path, source=server.url)
        assert message.startswith("--data-dir")
        assert "cannot be written" in message

    def test_two_at_once_download_once(self, tiny: Official, server: Server, tmp_path: Path):
        serve(server, tiny, "binary")
        server.plan = ["slow"]
        results: list[Dataset] = []
        threads = [
            threading.Thread(target=lambda: results.append(load(tiny, tmp_path, source=server.url))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 3
        assert len(server.requests) == 1
        assert leftovers(tmp_path) == [tiny.spec.binary.archive]

    def test_a_killed_process_does_not_block_the_next(self, tiny: Official, server: Server, tmp_path: Path):
        serve(server, tiny, "binary")
        lock = tmp_path / f".{tiny.spec.binary.archive}.lock"
        code = f"import filelock; lock = filelock.FileLock({str(lock)!r}); lock.acquire(); print(flush=True); input()"
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe) as holder:
            assert holder.stdout
            holder.stdout.readline()
            results: list[Dataset] = []
            output = io.StringIO()
            config = DataConfig(dataset="cifar10", data_dir=str(tmp_path), source=server.url)
            waiting = threading.Thread(
                target=lambda: results.append(load_dataset(config, console=Console(file=output)))
            )
            waiting.start()
            waiting.join(0.3)
            before = list(results)
            holder.kill()
            waiting.join(10)
        assert not before
        assert results
        assert "Waiting for another process" in output.getvalue()

    def test_progress_on_terminals_only(self, tiny: Official, server: Server, tmp_path: Path, capfd):
        serve(server, tiny, "binary")
        for terminal in (True, False):
            output = io.StringIO()
            console = Console(file=output, force_terminal=terminal, width=100)
            config = DataConfig(dataset="cifar10", data_dir=str(tmp_path / str(terminal)), source=server.url)
            load_dataset(config, console=console)
            assert ("downloading cifar-10-binary.tar.gz" in output.getvalue()) == terminal
            assert terminal or not output.getvalue()
        assert capfd.readouterr() == ("", "")


# --- Hugging Face ----------------------------------------------------------------------------------------------------


class TestHub:
    def test_without_its_packages(self, tiny: Official, tmp_path: Path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
        message = refused(tiny, tmp_path, source="hub")
        assert "pip install 'convmixer-lab[hub]'" in message

    def test_local_files_go_first(self, tiny: Official, tmp_path: Path):
        tiny.place(tiny.spec.binary, tmp_path)
        load(tiny, tmp_path, source="hub")

    @pytest.fixture
    def hub(self, official: Official, tmp_path: Path, monkeypatch) -> Path:
        """Puts Parquet files in place of the hub's."""
        parquet = pytest.importorskip("pyarrow.parquet", reason="needs the hub extra")
        pyarrow = pytest.importorskip("pyarrow")
        huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the hub extra")
        from PIL import Image

        for part, pixels in official.images.items():
            encoded = []
            for image in pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1):
                buffer = io.BytesIO()
                Image.fromarray(image).save(buffer, "PNG")
                encoded.append({"bytes": buffer.getvalue(), "path": None})
            table = pyarrow.table({"img": encoded, official.spec.hub_label: official.labels[part]})
            parquet.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet", row_group_size=7)

        def get(repository: str, name: str, repo_type: str, local_files_only: bool) -> str:
            assert (f"{repository}/{name.rpartition('/')[0]}", repo_type) == (official.spec.hub, "dataset")
            return str(tmp_path / name.rpartition("/")[2])

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", get)
        return tmp_path

    def test_gives_the_same_as_the_archives(self, official: Official, hub: Path):
        from_hub = load(official, hub / "none", source="hub")
        official.place(official.spec.binary, hub / "data")
        assert from_hub.info == load(official, hub / "data").info

    def test_without_network(self, tiny: Official, tmp_path: Path, monkeypatch):
        pytest.importorskip("pyarrow.parquet", reason="needs the hub extra")
        constants = pytest.importorskip("huggingface_hub", reason="needs the hub extra").constants
        monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        started = time.monotonic()
        assert "there is no way to https://hub.invalid" in refused(tiny, tmp_path, source="hub")
        assert time.monotonic() - started < 2

    def test_other_images_are_refused(self, official: Official, hub: Path):
        shutil.copy(hub / "test-00000-of-00001.parquet", hub / "train-00000-of-00001.parquet")
        message = refused(official, hub / "none", source="hub")
        assert f"https://huggingface.co/datasets/{official.spec.hub}: these are not the images" in message

    @pytest.mark.parametrize("content", [b"", b"no table", None])
    def test_broken_files(self, official: Official, hub: Path, content: bytes | None):
        path = hub / "test-00000-of-00001.parquet"
        path.unlink() if content is None else path.write_bytes(content)
        assert "--source hub: " in refused(official, hub / "none", source="hub")


# --- what is pinned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_specifications_agree_with_themselves_and_with_the_published_statistics(name: str):
    published = {
        "cifar10": ((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)),
        "cifar100": ((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047)),
    }[name]
    spec = SPECS[name]
    for part, total in (("train", 50_000), ("test", 10_000)):
        content, n = spec.content[part], total * 1024
        assert content.per_class * len(spec.classes) == total
        mean = np.array(content.sums) / n / 255
        std = np.sqrt(np.array(content.squares) / n / 255**2 - mean**2)
        np.testing.assert_allclose([mean, std], published, atol=5e-9 if part == "train" else 4e-3)
        assert {len(form.files[part]) for form in (spec.binary, spec.python)} == {
            5 if (name, part) == ("cifar10", "train") else 1
        }
    assert len(set(spec.classes)) == len(spec.classes)
    assert list(spec.classes) == sorted(spec.classes)
    sums = [spec.binary.md5, spec.python.md5, *spec.python.file_md5.values()]
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in sums)
    assert len(set(sums)) == len(sums)
    assert set(spec.python.file_md5) == {*sum(spec.python.files.values(), ()), spec.python.names}
    assert all(url.endswith((spec.binary.archive, spec.python.archive)) for url in spec.urls)


@pytest.mark.skipif(
    "CONVMIXER_TEST_CIFAR" not in os.environ, reason="needs CONVMIXER_TEST_CIFAR, a folder with archives"
)
@pytest.mark.parametrize("name", SPECS)
def test_the_real_archives(name: str):
    folder = Path(os.environ["CONVMIXER_TEST_CIFAR"])
    loaded = load_dataset(DataConfig(dataset=name, data_dir=str(folder)))
    assert loaded.info.sizes == {"train": 45_000, "val": 5_000, "test": 10_000}
