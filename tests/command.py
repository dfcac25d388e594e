"""What a command left behind: exit code and streams. The fixture `run` gives it."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest

__all__ = ["Done"]


class Done(NamedTuple):
    code: object
    out: str
    err: str

    @property
    def last(self) -> dict[str, object]:
        """The last line of standard output, as JSON that has no NaN."""
        return json.loads(self.out.splitlines()[-1], parse_constant=pytest.fail)
