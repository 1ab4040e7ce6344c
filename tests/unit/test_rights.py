"""Committed pictures show only images that anybody may copy, and docs/pictures.toml names the source of each."""

from __future__ import annotations

import base64
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch

from claims import stored
from gia.data import assets

ROOT = Path(__file__).parents[2]
MANIFEST = Path("docs", "pictures.toml")

#: Endings of files that can hold a picture: images, arrays, weights and notebooks.
ENDINGS = {".bmp", ".gif", ".ipynb", ".jpeg", ".jpg", ".npy", ".npz", ".pdf", ".pgm", ".png", ".pt", ".pth"}
ENDINGS |= {".safetensors", ".svg", ".tif", ".tiff", ".webp"}

#: An image inside a page or a document, as in a self-contained report.
EMBEDDED = re.compile(r"data:image/[a-z+.-]+;base64,[A-Za-z0-9+/]")

LARGEST = 300_000  # bytes


def files(root: Path) -> list[Path]:
    """What git tracks below `root`, so that a reader's own pictures do not count; without git, all visible files."""
    if (root / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, encoding="utf-8")
        return [root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()]
    found = [path for path in root.rglob("*") if path.is_file()]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def pictures(root: Path) -> set[str]:
    """Files below `root` that can hold a picture."""
    return {
        path.relative_to(root).as_posix()
        for path in files(root)
        if path.suffix.lower() in ENDINGS
        or (path.suffix in (".html", ".md") and EMBEDDED.search(path.read_text(encoding="utf-8")))
    }


def wrong(root: Path) -> list[str]:
    """What is wrong with the pictures below `root` and their manifest, one line each."""
    listed = tomllib.loads((root / MANIFEST).read_text(encoding="utf-8"))["picture"]
    found, named = pictures(root), {entry["path"] for entry in listed}
    lines = [f"{path}: not listed in {MANIFEST.as_posix()}" for path in sorted(found - named)]
    lines += [f"{path}: listed and not there" for path in sorted(named - found)]
    for entry in listed:
        for source in entry["sources"]:
            asset = assets.ASSETS.get(source)
            if asset is None or asset.kind != "images" or not asset.redistributable:
                lines.append(f"{entry['path']}: {source} is no set of images that may be copied")
        if entry["sources"] and not entry["licence"]:
            lines.append(f"{entry['path']}: no licence")
        if not entry["shows"] or not entry["made_by"]:
            lines.append(f"{entry['path']}: does not say what it shows, or what makes it")
    return lines


def planted(root: Path, *, source: str = "photos", listed: str = "docs/a.png", there: str = "docs/a.png") -> Path:
    """A tree with one picture and a manifest with one entry."""
    (root / there).parent.mkdir(parents=True, exist_ok=True)
    (root / there).write_bytes(b"picture")
    (root / MANIFEST).parent.mkdir(exist_ok=True)
    entry = f'path = "{listed}"\nshows = "x"\nsources = ["{source}"]\nlicence = "CC0"\nmade_by = "x"\n'
    (root / MANIFEST).write_text(f"[[picture]]\n{entry}", encoding="utf-8")
    return root


def test_every_committed_picture_is_listed_and_shows_only_images_that_may_be_copied() -> None:
    """If it fails, the repository hands out images of others, or of people, without the right to."""
    assert wrong(ROOT) == []


def test_committed_pictures_are_small() -> None:
    """If it fails, every clone carries megabytes of pictures."""
    sizes = {path: (ROOT / path).stat().st_size for path in pictures(ROOT)}
    assert {path: size for path, size in sizes.items() if size >= LARGEST} == {}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, None),
        ({"there": "docs/b.PNG"}, "docs/b.PNG: not listed in docs/pictures.toml"),
        ({"there": "baselines/stored/faces.npz"}, "baselines/stored/faces.npz: not listed in docs/pictures.toml"),
        ({"source": "faces"}, "docs/a.png: faces is no set of images that may be copied"),
        ({"source": "cifar10-samples"}, "docs/a.png: cifar10-samples is no set of images that may be copied"),
        ({"source": "lpips-alex"}, "docs/a.png: lpips-alex is no set of images that may be copied"),
        ({"source": "somewhere"}, "docs/a.png: somewhere is no set of images that may be copied"),
    ],
)
def test_a_picture_that_is_not_listed_or_not_free_is_named(
    tmp_path: Path, changed: dict[str, str], message: str | None
) -> None:
    """If it fails, the check of this repository's pictures cannot fail."""
    found = wrong(planted(tmp_path, **changed))
    assert message in found if message else found == []


def test_an_image_inside_a_page_counts_as_a_picture(tmp_path: Path) -> None:
    """If it fails, a self-contained report may show anything."""
    content = base64.b64encode(b"picture").decode()
    planted(tmp_path)
    (tmp_path / "docs" / "report.html").write_text(f'<img src="data:image/png;base64,{content}">', encoding="utf-8")
    (tmp_path / "docs" / "text.html").write_text("<p>no picture</p>", encoding="utf-8")
    (tmp_path / ".gia").mkdir()
    (tmp_path / ".gia" / "mine.png").write_bytes(b"of a user's own machine")
    assert wrong(tmp_path) == ["docs/report.html: not listed in docs/pictures.toml"]


def test_a_picture_that_git_does_not_track_is_the_readers_own(tmp_path: Path) -> None:
    """If it fails, who follows the README and keeps its picture cannot run the tests."""
    planted(tmp_path)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    (tmp_path / "leak.png").write_bytes(b"mine")
    assert wrong(tmp_path) == []
    subprocess.run(["git", "add", "leak.png"], cwd=tmp_path, check=True)
    assert wrong(tmp_path) == ["leak.png: not listed in docs/pictures.toml"]


@pytest.mark.parametrize(("name", "folder"), [("digits", "baselines"), ("faces", ".gia"), ("digits faces", ".gia")])
def test_a_stored_result_leaves_pictures_that_may_not_be_copied_where_git_ignores_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    """If it fails, who makes a stored result again commits its faces."""
    monkeypatch.setattr(stored, "ROOT", tmp_path)
    monkeypatch.setattr(stored, "FOLDER", tmp_path / "baselines" / "stored")
    path = stored.picture("x", {"private": torch.zeros(1, 1, 8, 8)}, *name.split())
    assert path.is_file()
    assert path.relative_to(tmp_path).parts[0] == folder
