"""Where Numba keeps kernels when neither the package nor the user's cache folder can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import online_fm

# root may write everywhere, unless it gives up the right to
AS_ANYBODY = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if os.geteuid() == 0
    else []
)
IMPORT = "import os, sys; import online_fm; print(os.environ.get('NUMBA_CACHE_DIR'))"
COMPILE = IMPORT + "; import numpy as np; from online_fm.features.hashing import hash_blocks"
COMPILE += "; print(hash_blocks(np.zeros((1, 2), np.uint32), np.uint64(1)))"

pytestmark = pytest.mark.skipif(
    bool(AS_ANYBODY) and not shutil.which("setpriv"), reason="setpriv (util-linux) is not installed, and we are root"
)


class Installed:
    """A copy of the package in a folder that is read-only, a home that is, and a temporary folder that is not."""

    def __init__(self, path: Path) -> None:
        self.site, self.home, self.temporary = path / "site", path / "home", path / "tmp"
        self.private = self.temporary / f"online-fm-{os.geteuid()}"
        package = Path(online_fm.__file__).parent
        shutil.copytree(package, self.site / "online_fm", ignore=shutil.ignore_patterns("__pycache__"))
        self.home.mkdir()
        self.temporary.mkdir()
        self.protect(0o555)

    def protect(self, mode: int) -> None:
        for folder in (self.home, self.site, *(path for path in self.site.rglob("*") if path.is_dir())):
            folder.chmod(mode)

    def run(self, code: str, **environment: str) -> list[str]:
        """What the code prints, in a process of its own."""
        given = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.temporary)}
        command = [
            *AS_ANYBODY,
            sys.executable,
            "-P",
            "-c",
            f"import sys; sys.path.insert(0, {str(self.site)!r}); {code}",
        ]
        done = subprocess.run(command, env=given | environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def installed(tmp_path):
    made = Installed(tmp_path)
    yield made
    made.protect(0o755)


@pytest.mark.parametrize("before", ["", "import numba; "], ids=["numba later", "numba first"])
def test_kernels_are_kept_in_a_private_folder_where_no_other_can_be_written(installed, before):
    place, hashed = installed.run(before + COMPILE)
    assert Path(place) == installed.private
    assert installed.private.stat().st_mode & 0o777 == 0o700
    assert list(installed.private.rglob("*.nbi"))
    assert installed.run(before + COMPILE) == [place, hashed]


def test_a_folder_that_others_may_write_is_not_used(installed):
    installed.private.mkdir()
    installed.private.chmod(0o777)
    (place,) = installed.run(IMPORT)
    assert Path(place) != installed.private
    assert Path(place).parent == installed.temporary
    assert Path(place).stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_folders_place_is_not_followed(installed):
    aim = installed.temporary / "aim"
    aim.mkdir(mode=0o700)
    installed.private.symlink_to(aim)
    (place,) = installed.run(IMPORT)
    assert Path(place).parent == installed.temporary
    assert Path(place) not in (installed.private, aim)


def test_a_place_that_is_set_or_can_be_written_is_left_alone(installed, tmp_path):
    assert installed.run(IMPORT, NUMBA_CACHE_DIR="/elsewhere") == ["/elsewhere"]
    assert installed.run(IMPORT, XDG_CACHE_HOME=str(tmp_path)) == ["None"]
    installed.home.chmod(0o755)
    assert installed.run(IMPORT) == ["None"]
    installed.protect(0o755)
    assert installed.run(IMPORT, HOME="/nonexistent") == ["None"]
