"""The peers' own environment, made on first use, and how each of them is run.

Vowpal Wabbit, xLearn and libffm (its Python wheel) come from PyPI at fixed versions into `.cache/peers`, apart from the
project's own dependencies; River is one of these for its tests anyway. Fwumious Wabbit, alphaFM and libFM are in no
registry that installs by name. All run on one thread, in processes of their own.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

__all__ = ["CACHE", "PINNED", "available", "peer_python", "run_peer", "work_of"]

CACHE = Path(__file__).parents[1] / ".cache" / "peers"
PINNED = ("vowpalwabbit==9.11.9", "xlearn==0.40a1", "pylibffm==0.4.1")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "USER": os.environ.get("USER", "peer")}  # xLearn asks for USER


@cache
def peer_python() -> Path:
    """The interpreter that has the peers; installs those that are missing, and goes on without those that fail."""
    python = CACHE / "venv" / "bin" / "python"
    done = CACHE / "venv" / "pinned.txt"
    if not done.exists() or done.read_text() != "\n".join(PINNED):
        print(f"installing {', '.join(PINNED)} into {CACHE / 'venv'}", file=sys.stderr)
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", CACHE / "venv"], check=True)
        pip = python, "-m", "pip", "install", "--quiet"
        failed = [package for package in PINNED if subprocess.run([*pip, package], check=False).returncode]
        print("".join(f"{package} does not install here\n" for package in failed), end="", file=sys.stderr)
        if not failed:
            done.write_text("\n".join(PINNED))
    return python


@cache
def available(module: str) -> bool:
    """Whether the peers' environment can import it."""
    command = [peer_python(), "-c", f"import {module}"]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False).returncode == 0


def run_peer(*arguments: str | Path) -> str:
    """What `python ARGUMENTS` prints, standard error included, in the peers' environment."""
    command = [peer_python(), *arguments]
    found = subprocess.run(
        command, env=ENVIRONMENT, cwd=CACHE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if found.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} ended with {found.returncode}:\n{found.stdout[-2000:]}")
    return found.stdout


def work_of(*arguments: str | Path) -> tuple[float, str]:
    """The processor's seconds that `run_peer` took in all, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = run_peer(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, told
