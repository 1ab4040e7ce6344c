"""`python -m gia report`: make the report of a run again, compare two runs, or write docs/results.md."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from gia.harness.report import compare, page
from gia.harness.report.material import PAGE, Material, environment_of, material_in
from gia.harness.report.rendering import rendered
from gia.harness.report.results import from_files

#: The page of a comparison, and the document of the records.
COMPARISON, RESULTS = "comparison.html", Path("docs", "results.md")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this sub-command."""
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN_DIR", help="the folder of a run, or of two to compare"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where the page goes (default: into the last RUN_DIR)"
    )
    parser.add_argument(
        "--without-images", action="store_true", help="show no image, so that the page of one run may be published"
    )
    parser.add_argument("--markdown", action="store_true", help=f"write {RESULTS} from the records of the project")
    parser.add_argument(
        "--root", type=Path, default=Path(), metavar="DIR", help="the project with the register (default: this folder)"
    )


def run(options: argparse.Namespace) -> int:
    """Run it. Returns 2, with the reason on stderr, for arguments or folders that do not fit."""
    try:
        if options.markdown == bool(options.runs) or len(options.runs) > 2:
            got = f"{len(options.runs)} RUN_DIR" + (" and --markdown" if options.markdown else "")
            raise ValueError(f"RUN_DIR: expected one or two folders of runs, or --markdown alone, got {got}")
        if options.without_images and len(options.runs) != 1:
            raise ValueError(f"--without-images: expected one RUN_DIR, got {len(options.runs)}")
        path = _results(options.root) if options.markdown else _page(options)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {path}")
    return 0


def _results(root: Path) -> Path:
    path = root / RESULTS
    path.write_text(from_files(root), encoding="utf-8")
    return path


def _page(options: argparse.Namespace) -> Path:
    folders: list[Path] = options.runs
    output: Path | None = options.output
    root: Path = options.root
    found = [material_in(folder.resolve(), root=root if _is_project(root) else None) for folder in folders]
    if len(found) == 1:
        path, text = output or folders[0] / PAGE, page.html(found[0], images=not options.without_images)
    else:
        comparison = compare.compared(found[0].rows, found[1].rows)
        print(compare.terminal(comparison, shutil.get_terminal_size((100, 24)).columns))
        path = output or folders[1] / COMPARISON
        text = rendered("comparison.html", compare.view(comparison, [_facts(each) for each in found]))
    path.write_text(text, encoding="utf-8")
    return path


def _is_project(root: Path) -> bool:
    return (root / "claims" / "claims.toml").exists()


def _facts(material: Material) -> Mapping[str, str]:
    """What the numbers of a run depend on, with the name of its folder."""
    return {"folder": material.folder.name, **environment_of(material)}
