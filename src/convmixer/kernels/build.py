"""Building and loading of the native kernels.

They are C++ without any headers but the standard library's: the machine's own compiler builds them in a few seconds at
first use. The result is kept per user, under ``CONVMIXER_CACHE`` or the platform's cache folder, by a hash
of the sources, the compiler and the flags.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from convmixer.files import (
    atomic_path,
    cache_dir,
    make_cache_dir,
    others_can_change,
    read_bytes,
    write_atomic,
)

logger = logging.getLogger("convmixer.kernels")

SOURCES = Path(__file__).parent / "native"
BUILD_SECONDS = 120

_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
]
_FLAGS += ["-Wno-psabi", "-Wno-ignored-attributes"]
# What PyTorch calls the instruction sets; it runs the check, and ATEN_CPU_CAPABILITY limits it and us together.
_INSTRUCTION_SETS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"],
    "AVX2": ["-mavx2", "-mfma"],
}


class BuildError(RuntimeError):
    """The native kernels are unavailable on this machine; the message says why in one line."""


def instruction_set() -> str:
    """The widest instruction set that the kernels may use here: AVX512, AVX2 or DEFAULT (the compiler's own)."""
    torch = sys.modules.get("torch")
    found = _capability() if torch is None else torch.backends.cpu.get_cpu_capability()
    return found if found in _INSTRUCTION_SETS else "DEFAULT"


def processor_flags() -> set[str]:
    """What the processor can do, in Linux's names; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    return next((set(line.split()) for line in text.splitlines() if line.startswith("flags")), set())


def _capability() -> str:
    """What PyTorch would answer, where it is not loaded: from Linux's list of the processor's abilities."""
    flags = processor_flags()
    allowed = os.environ.get("ATEN_CPU_CAPABILITY", "avx512").lower()
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma"} <= flags and allowed == "avx512":
        return "AVX512"
    return "AVX2" if {"avx2", "fma"} <= flags and allowed in ("avx512", "avx2") else "DEFAULT"


def compiler() -> str | None:
    """The C++ compiler: ``CXX`` from the environment, else the first of g++, clang++, c++ that is installed."""
    if chosen := os.environ.get("CXX"):
        return shutil.which(chosen)
    return next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)


def build(instructions: str | None = None, extra_flags: Sequence[str] = (), *, source: str = "convmixer.cpp") -> Path:
    """The library, built if it is not in the cache yet.

    Its SHA-256 lies beside it: a damaged one, which could compute anything or kill the process, is built anew.
    Two processes may build at once: each writes its own file, and the last renaming wins.

    Args:
        instructions: an instruction set as in :func:`instruction_set`, which is the default.
        extra_flags: for the compiler, such as ``-fsanitize=address``.
        source: the file to compile.

    Raises:
        BuildError: no compiler, a compilation that fails, or a cache that cannot be written or that others can change.
    """
    program = compiler()
    if program is None:
        raise BuildError("no C++ compiler (g++ or clang++) is installed")
    flags = [*_FLAGS, *_INSTRUCTION_SETS.get(instructions or instruction_set(), []), *extra_flags]
    sources = sorted(SOURCES.iterdir())
    try:
        version = subprocess.run([program, "--version"], capture_output=True, check=True, timeout=BUILD_SECONDS).stdout
        digest = hashlib.sha256(version + "\0".join(flags).encode())
        for file in sources:
            digest.update(file.name.encode() + file.read_bytes())
        kind = "kernels" if source == "convmixer.cpp" else Path(source).stem
        target = make_cache_dir() / f"{kind}-{digest.hexdigest()[:20]}.so"
        if others_can_change(target.parent):  # a library that they put there would run as this user
            raise BuildError(
                f"other users can change the cache folder {target.parent}; set CONVMIXER_CACHE to one of your own"
            )
        if not _is_whole(target):
            _compile(program, flags, SOURCES / source, target)
            write_atomic(_digest_file(target), _sha256(target))
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or b"").decode(errors="replace").splitlines()
        reason = next((line for line in lines if "error" in line), f"exit status {error.returncode}")
        raise BuildError(f"{program} failed: {reason.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{program} or the cache folder {cache_dir()} cannot be used: {error}") from error
    return target


def loaded(source: str, load: Callable[[str], ctypes.CDLL], warning: str) -> ctypes.CDLL | None:
    """The library made of ``source``; None, after one logged line that says why, if it is unavailable.

    Args:
        source: the file to compile.
        load: from the library's path to the library; raises OSError if it is another one.
        warning: what it means that there is none.
    """
    if os.environ.get("CONVMIXER_NATIVE") == "0":
        logger.info("native kernels are switched off by CONVMIXER_NATIVE=0")
        return None
    try:
        return load(str(build(source=source)))
    except (BuildError, OSError) as error:
        logger.warning("%s: %s", warning, error)
        return None


def _is_whole(library: Path) -> bool:
    """Whether a library is there and is what the compiler wrote."""
    try:
        return read_bytes(_digest_file(library)).decode() == _sha256(library)
    except (OSError, ValueError):
        return False


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _sha256(file: Path) -> str:
    return hashlib.sha256(read_bytes(file)).hexdigest()


def _compile(program: str, flags: list[str], source: Path, target: Path) -> None:
    logger.info("building the native kernels once, into %s", target)
    with atomic_path(target) as temporary:
        command = [program, *flags, str(source), "-o", str(temporary)]
        subprocess.run(command, capture_output=True, check=True, timeout=BUILD_SECONDS)


@functools.cache
def parallel_entry() -> int | None:
    """Address of ``GOMP_parallel`` in the OpenMP runtime that PyTorch is linked to, None if there is none.

    The kernels run on PyTorch's own threads through it. Other libraries bring runtimes of their own into the process
    (scikit-learn does), whose threads would compete with PyTorch's for the cores; hence the question to PyTorch's
    library, which answers for what it depends on.
    """
    import torch

    for path in sorted((Path(torch.__file__).parent / "lib").glob("*torch_cpu*")):
        try:
            function = ctypes.CDLL(str(path)).GOMP_parallel  # LLVM's and Intel's runtimes export it too
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value
    return None
