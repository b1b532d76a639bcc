"""Where a partition key lies: the effective partition key of a hierarchical key, as a range of it addresses documents.

Each level is hashed for itself (MurmurHash3, 128 bits) and the hashes are joined, so a prefix of levels is a range.
"""

from __future__ import annotations

from collections.abc import Sequence

_MASK = (1 << 64) - 1
_STRING, _AFTER_STRING = b"\x08", b"\xff"


def effective_key(levels: Sequence[str]) -> str:
    """Upper-case hexadecimal; 32 characters a level."""
    return "".join(_level(level) for level in levels)


def _level(text: str) -> str:
    hashed = bytearray(reversed(_murmur3_128(_STRING + text.encode() + _AFTER_STRING)))
    hashed[0] &= 0x3F  # the highest key is FF
    return hashed.hex().upper()


def _murmur3_128(data: bytes) -> bytes:
    """MurmurHash3_x64_128 with seed 0."""
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F
    h1 = h2 = 0
    body = len(data) // 16 * 16
    for at in range(0, body, 16):
        h1 ^= _scramble(int.from_bytes(data[at : at + 8], "little"), c1, 31, c2)
        h1 = ((_rotate(h1, 27) + h2) * 5 + 0x52DCE729) & _MASK
        h2 ^= _scramble(int.from_bytes(data[at + 8 : at + 16], "little"), c2, 33, c1)
        h2 = ((_rotate(h2, 31) + h1) * 5 + 0x38495AB5) & _MASK
    tail = data[body:]
    h2 ^= _scramble(int.from_bytes(tail[8:], "little"), c2, 33, c1)
    h1 ^= _scramble(int.from_bytes(tail[:8], "little"), c1, 31, c2)
    h1 ^= len(data)
    h2 ^= len(data)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    h1, h2 = _mixed(h1), _mixed(h2)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    return h1.to_bytes(8, "little") + h2.to_bytes(8, "little")


def _rotate(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _MASK


def _scramble(value: int, first: int, by: int, second: int) -> int:
    return _rotate(value * first & _MASK, by) * second & _MASK


def _mixed(value: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * factor & _MASK
    return value ^ value >> 33
