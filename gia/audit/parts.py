"""Finished parts of an audit on the disk, by content, so that a run that was stopped can go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gia.numerics import digest_of, file_digest, private_folder, replacing

__all__ = ["Parts", "sources"]


class Parts:
    """A folder with one file for each finished part.

    Args:
        folder: where they are kept, readable for the user alone, since they hold private images; None keeps nothing.

    >>> import tempfile, numpy as np
    >>> from gia.audit.parts import Parts
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Parts(f"{folder}/parts").put("key", {"leak": 2.5}, {"originals": np.zeros(1)})
    ...     Parts(f"{folder}/parts").get("key")[0]
    {'leak': 2.5}
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else Path(folder)

    def __bool__(self) -> bool:
        return self._folder is not None and any(self._folder.glob("*.npz"))

    def get(self, key: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """The record and the arrays of a part; None where it was not finished, or its file is damaged."""
        if self._folder is None or not (path := self._folder / f"{key}.npz").is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return json.loads(str(arrays.pop("record"))), arrays
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def put(self, key: str, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a part, complete or not at all."""
        if self._folder is None:
            return
        with (
            replacing(private_folder(self._folder) / f"{key}.npz", private=True) as partial,
            partial.open("wb") as file,
        ):
            np.savez(file, allow_pickle=False, record=np.array(json.dumps(record)), **dict(arrays))

    def remove(self) -> None:
        """Delete the folder; the parts have no use once the report is written."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@lru_cache(maxsize=1)
def sources() -> str:
    """A digest of the source of gia, of torch's version and of the number of threads: what a part depends on too."""
    root = Path(__file__).parents[1]
    files = {str(path.relative_to(root)): file_digest(path) for path in sorted(root.rglob("*.py"))}
    return digest_of([files, torch.__version__, torch.get_num_threads()])
