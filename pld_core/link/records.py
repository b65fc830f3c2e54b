"""What the two ends of the record link say to each other.

Sender to receiver, a batch (without records it is a heartbeat): the records ``first``, ``first + 1``,
..., which are the next ones after ``previous``; ``oldest``: the oldest that the sender still keeps.
Receiver to sender, the answer to each batch: ``want``, the number it takes next, ``room`` for so many
records from there on, and ``acknowledged``, up to which the sender may forget.
"""

from __future__ import annotations

import re
from typing import Any

from pld_core.errors import LinkError
from pld_core.link.codec import encode, unpack
from pld_core.link.spool import RECORD_BYTES

BATCH_BYTES = 2**18
BATCH_RECORDS = 256
MESSAGE_BYTES = RECORD_BYTES + 2 * BATCH_BYTES

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # a part of file names, too
_IDENTITY = re.compile(r"[0-9a-f]{32}")
_BATCH = {"sender": str, "spool": str, "oldest": int, "previous": int, "first": int, "records": list}
_STATUS = {"receiver": str, "want": int, "room": int, "acknowledged": int}


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise LinkError(f"Sender name {name[:80]!r} is not valid; use up to 64 letters, digits, - and _.")
    return name


def pack_batch(sender: str, spool: str, oldest: int, previous: int, first: int, records: list[bytes]) -> bytes:
    batch = {"sender": sender, "spool": spool, "oldest": oldest, "previous": previous, "first": first}
    return encode({"kind": "pld.batch.1", **batch, "records": records})


def unpack_batch(data: bytes) -> dict[str, Any]:
    batch = unpack(data, "pld.batch.1", _BATCH)
    check_name(batch["sender"])
    if not _IDENTITY.fullmatch(batch["spool"]):
        raise LinkError(f"Spool identity {batch['spool'][:80]!r} is not valid; it has 32 hexadecimal digits.")
    if not batch["previous"] < batch["first"] or not 0 < batch["oldest"] <= batch["first"]:
        raise LinkError(f"Batch with oldest {batch['oldest']}, previous {batch['previous']}, first {batch['first']}.")
    if len(batch["records"]) > BATCH_RECORDS or not all(type(record) is bytes for record in batch["records"]):
        raise LinkError(f"A batch holds up to {BATCH_RECORDS} encoded records; given {len(batch['records'])} items.")
    return batch


def pack_status(receiver: str, want: int, room: int, acknowledged: int) -> bytes:
    status = {"receiver": receiver, "want": want, "room": room, "acknowledged": acknowledged}
    return encode({"kind": "pld.status.1", **status})


def unpack_status(data: bytes) -> dict[str, Any]:
    status = unpack(data, "pld.status.1", _STATUS)
    if not status["acknowledged"] < status["want"]:
        raise LinkError(f"Acknowledged {status['acknowledged']}, although {status['want']} is wanted next.")
    return status
