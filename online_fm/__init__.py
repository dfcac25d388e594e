"""online_fm: learn click-through models event by event from Kafka, and serve them while they learn.

Numba keeps compiled kernels beside their sources, else in the user's cache folder, or where `NUMBA_CACHE_DIR` says.
Where none of these can be written (root has installed the package, the user has no home) it refuses to import them.
Importing online_fm then sets `NUMBA_CACHE_DIR` to a folder under the temporary one that nobody else can write: what
lies in a cache is run.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

__all__ = ["__version__"]

__version__ = "0.1.0"


def _place_for_kernels() -> None:
    """Give Numba a folder for compiled kernels where it would find none."""
    if os.environ.get("NUMBA_CACHE_DIR") or _beside_sources() or _in_users_cache():
        return
    with suppress(OSError):  # not even a temporary folder: Numba says so when a kernel is imported
        os.environ["NUMBA_CACHE_DIR"] = str(_private_folder())
    if "numba" in sys.modules:  # it has read its settings already
        sys.modules["numba"].config.reload_config()


def _beside_sources() -> bool:
    return all(_writable(source.parent / "__pycache__") for source in Path(__file__).parent.rglob("*.py"))


def _in_users_cache() -> bool:
    try:
        return _writable(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "numba")
    except RuntimeError:  # there is no home
        return False


def _writable(folder: Path) -> bool:
    """Whether the folder can be written, or made."""
    nearest = next((path for path in (folder, *folder.parents) if os.access(path, os.F_OK)), folder)
    return os.access(nearest, os.W_OK | os.X_OK)


def _private_folder() -> Path:
    """A folder of ours alone: the same one in each process, unless somebody else has made it."""
    folder = Path(tempfile.gettempdir()) / f"online-fm-{os.geteuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return folder if ours else Path(tempfile.mkdtemp(prefix="online-fm-"))


_place_for_kernels()
