"""`python -m online_fm` is `online-fm`."""

from __future__ import annotations

from online_fm.cli import main

__all__: list[str] = []

main()
