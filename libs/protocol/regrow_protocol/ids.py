"""Ids: prefixed, sortable by time of creation, safe as one token of a NATS subject.

`<prefix>_<time><tail>`: 10 characters of milliseconds since 1970 and 16 of entropy, in Crockford's base 32 (as a ULID,
lower case). A child's id is derived from its parent's operation, so a replayed body names the same child again.
"""

from __future__ import annotations

import hashlib
import secrets
import time
import zlib

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
PROCESS, AGENT, MACHINE, SNAPSHOT, HOST, CLIENT, COMMAND, MANAGER, GRANT = "p", "a", "m", "s", "h", "c", "x", "w", "g"


def _base32(value: int, length: int) -> str:
    digits = [""] * length
    for position in range(length - 1, -1, -1):
        digits[position] = ALPHABET[value & 31]
        value >>= 5
    return "".join(digits)


def new_id(prefix: str) -> str:
    """A fresh random id with `prefix`."""
    return f"{prefix}_{_base32(time.time_ns() // 1_000_000, 10)}{_base32(secrets.randbits(80), 16)}"


def derived_id(prefix: str, seed: str, at: float) -> str:
    """The id that `seed` always gives; `at` (seconds since 1970) makes it sort."""
    tail = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=10).digest(), "big")
    return f"{prefix}_{_base32(int(at * 1000), 10)}{_base32(tail, 16)}"


def made_at(id_: str) -> float:
    """When an id was made, seconds since 1970; 0 for what is no id."""
    prefix, _, rest = id_.partition("_")
    if not prefix or len(rest) != 26 or rest.strip(ALPHABET):
        return 0.0
    milliseconds = 0
    for digit in rest[:10]:
        milliseconds = milliseconds << 5 | ALPHABET.index(digit)
    return milliseconds / 1000


def partition_of(pid: str, partitions: int) -> int:
    """The partition of a process: CRC-32 of its id modulo the app's number of partitions."""
    return zlib.crc32(pid.encode()) % partitions
