"""Random changes of valid files: of their bytes, and of the values in their JSON."""

from __future__ import annotations

import json
import struct

from hypothesis import strategies as st

#: What stands in the place of a value.
WRONG = [None, True, "false", "x", "", -1, 0, 1.5, 10**30, 1e308, [], [1], ["a", "a"], {}, {"a": 1}, "[" * 3]


@st.composite
def changed_bytes(draw, content):
    """Some bytes replaced, or the end cut off."""
    content = bytearray(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)
    for _ in range(draw(st.integers(0, 3))):
        if content:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@st.composite
def changed_json(draw, value):
    """One value somewhere within it replaced or removed."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
        copied = value.copy()
        if draw(st.integers(0, 5)):
            copied[key] = draw(changed_json(value[key]))
        else:
            del copied[key]
        return copied
    return draw(st.sampled_from(WRONG))


@st.composite
def changed_safetensors(draw, content, key):
    """A change of the bytes of a safetensors file, or of the JSON in its metadata under `key`."""
    if draw(st.integers(0, 3)) == 0:
        return draw(changed_bytes(content))
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    facts = draw(changed_json(json.loads(header["__metadata__"][key])))
    header["__metadata__"][key] = "[" * 100_000 if draw(st.integers(0, 40)) == 0 else json.dumps(facts)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]
