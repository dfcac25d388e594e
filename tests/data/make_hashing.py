"""Writes hashing.json: vectors of field keys, by the reference implementation (PyPI xxhash).

python tests/data/make_hashing.py
"""

from __future__ import annotations

import json
from pathlib import Path

import xxhash

FIELDS = ("user", "país", "ad.slot", "")
VALUES = (
    "",
    "0",
    "u712",
    "a-longer-value-of-more-than-thirty-two-bytes-all-in-all",
    "zażółć",
    "漢字",
    "a\x00b",
    "true",
)

rows = [
    {
        "field": field,
        "value": value,
        "seed": f"{(seed := xxhash.xxh64_intdigest(field.encode(), 0)):016x}",
        "xxh64": f"{(full := xxhash.xxh64_intdigest(value.encode(), seed)):016x}",
        "key": full >> 32,
    }
    for field in FIELDS
    for value in VALUES
]
document = {"made_with": f"xxhash {xxhash.VERSION} (libxxhash {xxhash.XXHASH_VERSION})", "vectors": rows}
Path(__file__).with_name("hashing.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
