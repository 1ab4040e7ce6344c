"""Files that other processes see complete or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str], *, private: bool = False) -> Iterator[Path]:
    """Write a file under a temporary name and rename it to `path` once it is complete.

    The temporary file lies in the folder of `path`, since a rename is atomic within one file system only. It is flushed
    to the disk before the rename, and removed if the block raises; a file that `path` already names then stays as it
    is.

    Args:
        path: the file to create or replace. Its folder must exist.
        private: whether only the user may read and write the file, whatever else the umask allows.

    Yields:
        The temporary path, which does not exist yet: the block creates that file.

    Raises:
        FileNotFoundError: the block did not create the file.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder) / "results.txt"
    ...     with replacing(target) as partial:
    ...         _ = partial.write_text("complete")
    ...     target.read_text(), len(list(Path(folder).iterdir()))
    ('complete', 1)
    """
    target = Path(path)
    # The name does not contain the target's, which may already have the largest length that the system allows.
    partial = target.parent / f".{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        yield partial
        if private:
            os.chmod(partial, partial.stat().st_mode & 0o600)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def private_folder(path: str | os.PathLike[str]) -> Path:
    """A folder, made for the user alone where it does not exist. One that exists keeps its permissions.

    Args:
        path: the folder. Folders above it are made, too, with the usual permissions.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from gia.numerics import private_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     oct(private_folder(Path(folder) / "cache" / "nets").stat().st_mode & 0o077)
    '0o0'
    """
    folder = Path(path)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
