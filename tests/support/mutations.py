"""Files made wrong in the ways that accidents and strangers make them wrong."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

_RAW = [
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0.0", "0", "-1", "0.5", "9" * 19, "-" + "9" * 40),
    *("9" * 5000, "1" + "0" * 400 + ".5", "true", "false", "null", "[]", "{}", '""', '" "', '"NaN"', '"1e999"', '"-1"'),
    *(
        '"12"',
        '"\\u0000"',
        '"\\ud800"',
        '"../../../etc/passwd"',
        '"' + "x" * 70000 + '"',
        "[null]",
        "[[]]",
        '{"": null}',
    ),
    *("[" * 200 + "]" * 200, "[" * 100000 + "]" * 100000, '{"a":' * 3000 + "1" + "}" * 3000, '"elastic"', '"pixel6"'),
    *(
        '"timm:"',
        '"timm:no_such_model?img_size=1e9"',
        "2147483648",
        "18446744073709551616",
        "1e308",
        "-1e308",
        "[0, 1e999]",
    ),
]


def mutate_bytes(generator: random.Random, contents: bytes) -> bytes:
    """A few bytes changed, added, lost, moved or said twice."""
    data = bytearray(contents)
    for _ in range(generator.choice((1, 1, 2, 5))):
        size, place = len(data), generator.randrange(len(data) + 1)
        end = min(size, place + generator.choice((1, 2, 8, 64, 1024)))
        kind = generator.randrange(9)
        if kind == 0 and place < size:
            data[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del data[place:end]
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            data[place:place] = generator.choice(
                (b"\0", b"\xff\xfe", b"\xc3\x28", b"\xef\xbb\xbf", b"\r", b'"', b"\x80")
            )
        elif kind == 4:
            data[place:place] = generator.randbytes(generator.choice((1, 4, 32)))
        elif kind == 5:
            data[place:place] = data[place:end]
        elif kind == 6 and place + 8 <= size:
            data[place : place + 8] = struct.pack("<Q", generator.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)))
        elif kind == 7:
            other = generator.randrange(size + 1)
            data[place:end], data[other:other] = b"", data[place:end]
        elif kind == 8 and not generator.randrange(20):
            data[:] = generator.choice((b"", b"\0" * 64, b"\n", b"null", b"[]", b"{}", b"\xff" * 9, b"PK\x03\x04"))
    return bytes(data)


def mutate_json(generator: random.Random, contents: bytes) -> bytes:
    """A JSON document with values of another kind, entries lost, added or said twice; now and then bytes alone."""
    if not generator.randrange(6):
        return mutate_bytes(generator, contents)
    document, raw = copy.deepcopy(json.loads(contents)), {}
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        document = _mutated(generator, document, raw)
    text = json.dumps(document)
    for name, value in raw.items():
        text = text.replace(f'"{name}"', value)
    return text.encode("utf-8", "surrogatepass")


def mutate_lines(generator: random.Random, contents: bytes) -> bytes:
    """Lines of JSON, one of them changed, or lost, moved and said twice."""
    lines = contents.splitlines(keepends=True)
    place = generator.randrange(len(lines))
    kind = generator.randrange(8)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(place, lines[generator.randrange(len(lines))])
    elif kind == 2:
        generator.shuffle(lines)
    elif kind == 3:
        return mutate_bytes(generator, contents)
    else:
        lines[place] = mutate_json(generator, lines[place].rstrip(b"\n")) + b"\n"
    return b"".join(lines)


def mutate_fields(generator: random.Random, contents: bytes) -> bytes:
    """A text of fields or settings, one of them replaced; now and then bytes alone."""
    if not generator.randrange(3):
        return mutate_bytes(generator, contents)
    lines = contents.decode().splitlines()
    place = generator.randrange(len(lines))
    separator = " = " if " = " in lines[place] else ","
    fields = lines[place].split(separator)
    value = generator.choice(
        [*_RAW, "inf", "-nan", "1,5", "1.234,5", "21 ms", "50%", "\u0661", "", '"', "[", "1979-05-27"]
    )
    value = value if len(value) < 10000 or not generator.randrange(10) else "7"
    kind = generator.randrange(4)
    if kind == 0:
        fields[generator.randrange(len(fields))] = value
    elif kind == 1:
        fields[-1] = value
    elif kind == 2:
        fields.insert(generator.randrange(len(fields) + 1), value)
    else:
        del fields[generator.randrange(len(fields))]
    lines[place] = separator.join(fields)
    if not generator.randrange(6):
        lines.insert(place, lines[generator.randrange(len(lines))])
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


def mutate_safetensors(generator: random.Random, contents: bytes) -> bytes:
    """A safetensors file with a changed header, a changed text in its metadata, or changed bytes."""
    size = struct.unpack("<Q", contents[:8])[0]
    head, rest = contents[8 : 8 + size], contents[8 + size :]
    kind = generator.randrange(4)
    if kind == 0:
        return mutate_bytes(generator, contents)
    if kind == 1:
        head = mutate_json(generator, head)
    else:
        header = json.loads(head)
        metadata = header.get("__metadata__") or {"": "{}"}
        name = generator.choice(sorted(metadata))
        text = metadata[name].encode()
        changed = mutate_json(generator, text) if text.startswith(b"{") else mutate_bytes(generator, text)
        header["__metadata__"] = {**metadata, name: changed.decode("utf-8", "replace")}
        head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + rest


def _mutated(generator: random.Random, document: Any, raw: dict[str, str]) -> Any:
    places = list(_places(document))
    if not places:
        return _value(generator, raw)
    parent, key = generator.choice(places)
    kind = generator.randrange(10)
    if kind < 5:
        parent[key] = _value(generator, raw)
    elif kind == 5:
        del parent[key]
    elif kind == 6:
        other, other_key = generator.choice(places)
        parent[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(parent[key])
    elif kind == 7 and isinstance(parent, dict):
        twice = f"{generator.getrandbits(64):016x}"
        raw[twice] = json.dumps(key)
        parent[twice] = parent[key]
    elif kind == 8 and isinstance(parent, dict):
        parent[generator.choice(("", "schema", "extra", "__class__", "\0", "1"))] = _value(generator, raw)
    else:
        found = parent[key]
        parent[key] = type(found)() if isinstance(found, (list, dict, str)) else [found]
    return document


def _places(node: Any) -> Any:
    if isinstance(node, dict):
        for key, value in node.items():
            yield node, key
            yield from _places(value)
    elif isinstance(node, list):
        for position, value in enumerate(node):
            yield node, position
            yield from _places(value)


def _value(generator: random.Random, raw: dict[str, str]) -> str:
    name = f"{generator.getrandbits(64):016x}"
    value = generator.choice(_RAW)
    raw[name] = value if len(value) < 10000 or not generator.randrange(8) else "[[]]"
    return name
