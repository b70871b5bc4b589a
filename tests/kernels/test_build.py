"""Building, caching and loading of the native code; the allocator; measurements on disk."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convmixer.kernels import build, measurements, native, registered
from convmixer.runtime.allocator import tune_allocator

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C++ compiler")

SOURCE = Path(build.__file__).parents[2]

EXERCISE = """
import sys, torch
from convmixer.kernels import native, registered
lib = native.load(sys.argv[1])
native.library = lambda: lib
for dtype in (torch.float32, torch.bfloat16):
    for c, n, h, w, k in [(3, 5, 16, 16, 9), (2, 19, 7, 5, 3), (1, 1, 1, 1, 15), (2, 3, 4, 33, 5), (2, 70, 12, 12, 7)]:
        for given in (None, torch.rand(4, c)):
            for scale in (None, torch.rand(n)):
                u, d = torch.randn(2, c, n * h * w).to(dtype)
                p = [torch.rand(c) for _ in range(6)]
                weight, size, eps = torch.randn(c, k, k), [n, h, w], [1e-5, 1e-5]
                last = [scale, size, "gelu", eps, True]
                y, v, s = registered.act_norm_depthwise(u, *p[:3], weight, *p[3:], given, *last, True)
                last[2] = "relu"
                registered.act_norm_depthwise_backward(d, u, v, *p[:3], weight, p[4], s, *last, given is None)
                t = registered.act_norm(u, *p[:3], None, d, scale, size, "relu", 1e-5)[1]
                registered.act_norm_backward(d, u, p[0], p[1], t, scale, size, "gelu", 1e-5, True)
                registered.depthwise(u, weight, size, True)
                registered.depthwise_weight_gradient(u, d, k, size)
print("done")
"""


def run_exercise(library: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", EXERCISE, str(library)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "2", **environment},
    )


def build_from_process(_: int) -> str:
    return str(build.build("DEFAULT", ["-O0"]))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONVMIXER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
@needs_compiler
def test_two_processes_build_at_once(empty_cache: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        paths = set(pool.map(build_from_process, range(2)))
    assert len(paths) == 1
    assert [str(path) for path in empty_cache.glob("*.so")] == list(paths)
    native.load(paths.pop())


@needs_compiler
def test_a_built_library_is_not_built_again(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty_cache.mkdir()
    monkeypatch.setattr(build, "_compile", lambda program, flags, source, target: target.touch())
    first = build.build()
    monkeypatch.setattr(build, "_compile", lambda program, flags, source, target: pytest.fail("built again"))
    assert build.build() == first
    monkeypatch.setattr(build, "_compile", lambda program, flags, source, target: target.touch())
    assert build.build("AVX2" if build.instruction_set() == "DEFAULT" else "DEFAULT") != first


@needs_compiler
@pytest.mark.parametrize("damage", ["flipped", "truncated", "another", "digest"])
def test_a_damaged_library_is_built_again(empty_cache: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    empty_cache.mkdir()
    monkeypatch.setattr(build, "_compile", lambda program, flags, source, target: target.write_bytes(b"library"))
    library = build.build()
    if damage == "digest":
        library.with_suffix(".sha256").unlink()
    else:
        library.write_bytes({"flipped": b"librarx", "truncated": b"libr", "another": b"another"}[damage])
    assert build.build().read_bytes() == b"library"
    monkeypatch.setattr(build, "_compile", lambda program, flags, source, target: pytest.fail("built again"))
    assert build.build() == library


@needs_compiler
@pytest.mark.skipif(os.name != "posix", reason="owners and modes of POSIX")
@pytest.mark.parametrize("change", ["mode", "owner"])
def test_a_cache_that_others_can_change_is_not_loaded_from(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(build, "_compile", lambda program, flags, source, target: target.write_bytes(b"library"))
    build.build()
    assert empty_cache.stat().st_mode & 0o777 == 0o700
    if change == "mode":
        empty_cache.chmod(0o777)
    else:
        monkeypatch.setattr(os, "getuid", lambda: empty_cache.stat().st_uid + 1)
        if empty_cache.stat().st_uid == 0:  # root's is trusted
            os.chown(empty_cache, 12345, -1)
            monkeypatch.setattr(os, "getuid", lambda: 0)
    with pytest.raises(build.BuildError, match="other users can change the cache folder"):
        build.build()


@pytest.mark.slow
@needs_compiler
def test_sanitizers_find_nothing() -> None:
    compiler = build.compiler()
    assert compiler is not None
    runtimes = []
    for name in ("libasan.so", "libstdc++.so.6"):  # the second because PyTorch throws C++ exceptions while it starts
        command = [compiler, f"-print-file-name={name}"]
        runtimes.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        if not Path(runtimes[-1]).is_absolute():
            pytest.skip(f"{compiler} has no {name}")
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1", "-g0"]
    library = build.build(extra_flags=flags)
    # Leaks are not looked for: Python itself keeps memory until it ends.
    result = run_exercise(library, LD_PRELOAD=" ".join(runtimes), ASAN_OPTIONS="detect_leaks=0")
    assert result.stdout == "done\n", result.stderr[-3000:]


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_narrower_instruction_sets_give_the_same(instructions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers, to rounding, from another vector width than this machine's own."""
    if build.instruction_set() == "DEFAULT":
        pytest.skip("this CPU has no wider instruction set")
    torch.manual_seed(0)
    u, d = torch.randn(2, 3, 5 * 14 * 9)
    p, weight, size, eps = torch.rand(6, 3), torch.randn(3, 7, 7), [5, 14, 9], [1e-5, 1e-5]
    results = []
    for library in (native.library(), native.load(str(build.build(instructions)))):
        monkeypatch.setattr(native, "library", lambda library=library: library)
        y, v, used = registered.act_norm_depthwise(u, *p[:3], weight, *p[3:], None, None, size, "gelu", eps, True, True)
        gradients = registered.act_norm_depthwise_backward(
            d, u, v, *p[:3], weight, p[4], used, None, size, "gelu", eps, True, True
        )
        results.append((y, v, used, *gradients))
    for a, b in zip(*results, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-5


def test_no_compiler_is_one_line_and_the_reference(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "compiler", lambda: None)
    native.library.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not native.covers(torch.ones(2, 2))
            assert not native.covers(torch.ones(2, 2))
        assert len(caplog.records) == 1
        assert "no C++ compiler" in caplog.text
    finally:
        native.library.cache_clear()


@needs_compiler
def test_a_failing_compiler_is_named(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(build.BuildError, match="error"):
        build.build(extra_flags=["-fno-such-flag-exists"])
    assert not list(empty_cache.iterdir())
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match="no C\\+\\+ compiler"):
        build.build()


def test_unwritable_cache_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("CONVMIXER_CACHE", str(file / "below"))
    if build.compiler() is not None:
        with pytest.raises(build.BuildError, match="cannot be used"):
            build.build()
    measurements.keep("key", {"plain": 1.0})
    assert measurements.recall("key") is None


def test_measurements_are_kept(empty_cache: Path) -> None:
    assert measurements.recall("a") is None
    measurements.keep("a", {"plain": 1.0, "fast": 0.5})
    measurements.keep("b", {"plain": 2.0})
    assert measurements.recall("a") == {"plain": 1.0, "fast": 0.5}
    file = next(empty_cache.glob("timings-*.json"))
    whole = file.read_text()
    for damaged in ("{broken", "[]", '{"a": {}}', '{"a": {"plain": "x"}}', whole.replace("0.5", "0.4"), "[" * 9999):
        file.write_text(damaged)
        assert measurements.recall("a") is None
        measurements.keep("a", {"plain": 1.0})
        assert measurements.recall("a") == {"plain": 1.0}


def test_interleaved_takes_the_best_and_stops_in_time() -> None:
    order: list[str] = []
    best = measurements.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 60.0)
    assert order == ["a", "b"] * 3
    assert set(best) == {"a", "b"}
    measurements.interleaved({"a": lambda: order.append("c")}, 5, 0.0)
    assert order.count("c") == 3  # the first is not measured


@pytest.mark.slow
def test_allocator_is_set_in_process() -> None:
    code = "from convmixer.runtime.allocator import tune_allocator as t; print(t(), t())"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    ).stdout.split()
    assert out[0] == out[1]
    if sys.platform == "linux" and "glibc" in " ".join(os.confstr(n) or "" for n in ("CS_GNU_LIBC_VERSION",)):
        assert out == ["True", "True"]
    assert tune_allocator.__doc__


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_the_threads_are_pytorchs_whatever_else_is_loaded() -> None:
    """Scikit-learn brings an OpenMP runtime of its own; using that one beside PyTorch's made a step 7 times slower."""
    code = """
import sklearn.datasets, torch
from convmixer.kernels.build import parallel_entry
address = parallel_entry()
for line in open("/proc/self/maps"):
    low, high = (int(part, 16) for part in line.split()[0].split("-"))
    if address is not None and low <= address < high:
        print(line.split()[-1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "/torch/lib/" in done.stdout
