"""Installing peers below one folder. What is installed already is left alone, so an interrupted
installation goes on where it was."""

import shutil
import sys
from pathlib import Path

from bench_peers.errors import BenchError
from bench_peers.processes import output_of, say

HERE = Path(__file__).resolve().parent
DOWNLOAD_LIMIT_S = 900
BUILD_LIMIT_S = 3600


def python_environment(name: str, requirements: str, folder: Path) -> Path:
    """A virtual environment with what the file lists; returns its python."""
    wanted = (HERE / requirements).read_text()
    environment = folder / name
    python = environment / "bin" / "python"
    stamp = environment / "requirements.installed"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"installing {requirements}")
    shutil.rmtree(environment, ignore_errors=True)
    log = folder / "logs" / f"install-{name}.log"
    output_of([sys.executable, "-m", "venv", environment], log, DOWNLOAD_LIMIT_S, "python -m venv")
    _pip(python, ["install", "-r", HERE / requirements], log, requirements)
    stamp.write_text(wanted)
    return python


def llama_cpp_tool(target: str, requirements: str, folder: Path, jobs: int) -> Path:
    """Builds one program of llama.cpp for this very machine; returns its path."""
    wanted = (HERE / requirements).read_text()
    source, build = folder / "llama.cpp-source", folder / "llama.cpp-build"
    program, stamp = build / "bin" / target, build / "requirements.built"
    if program.exists() and stamp.exists() and stamp.read_text() == wanted:
        return program
    if not (source / "complete").exists() or (source / "complete").read_text() != wanted:
        _unpack_llama_cpp(source, requirements, folder)
        (source / "complete").write_text(wanted)
    say(f"building {target} of llama.cpp; this takes minutes")
    log = folder / "logs" / "build-llama.cpp.log"
    # Debian's ninja is optional; make is not always there. CMake picks what it finds.
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = [
        *("cmake", "-S", source, "-B", build, *generator),
        *("-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON"),
        *("-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"),
        *("-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF"),
    ]
    output_of(configure, log, DOWNLOAD_LIMIT_S, "configuring llama.cpp")
    compile_it = ["cmake", "--build", build, "-j", jobs, "--target", target]
    output_of(compile_it, log, BUILD_LIMIT_S, "building llama.cpp")
    stamp.write_text(wanted)
    return program


def pinned_version(requirements: str, package: str) -> str:
    for line in (HERE / requirements).read_text().splitlines():
        name, separator, version = line.partition("==")
        if separator and name == package:
            return version
    raise BenchError(f"{requirements} pins no {package}")


def _unpack_llama_cpp(source: Path, requirements: str, folder: Path) -> None:
    say(f"downloading {requirements}")
    downloads = folder / "downloads"
    shutil.rmtree(downloads, ignore_errors=True)
    log = folder / "logs" / "download-llama.cpp.log"
    package = "llama-cpp-python"
    # It is pinned and never run, so pip need not build it to learn what else it wants.
    only_source = ["--no-deps", "--no-binary", package]
    _pip(
        Path(sys.executable),
        ["download", *only_source, "-d", downloads, "-r", HERE / requirements],
        log,
        requirements,
    )
    archives = list(downloads.glob("*.tar.gz"))
    if len(archives) != 1:
        raise BenchError(f"{downloads} should hold one source archive, but holds {len(archives)}")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    unpack = ["tar", "-xzf", archives[0], "-C", source, "--strip-components=3"]
    output_of(
        [*unpack, "--wildcards", "*/vendor/llama.cpp/*"], log, DOWNLOAD_LIMIT_S, "unpacking"
    )
    shutil.rmtree(downloads)


def _pip(python: Path, arguments: list[object], log: Path, requirements: str) -> None:
    command = [python, "-m", "pip", "--disable-pip-version-check", *arguments]
    try:
        output_of(command, log, DOWNLOAD_LIMIT_S, "pip")
    except BenchError as error:
        raise BenchError(
            f"could not get what {requirements} lists from the package index; is the network up, "
            f"and has it wheels for this machine? {error}"
        ) from error
