"""What a client takes where it is told nothing; importing it needs no extra."""

from __future__ import annotations

DEADLINE_S = 30.0
"""Of a call that names none; a search of a million rows takes milliseconds."""

MESSAGE_BYTES = 64 << 20
"""The most that a message may have, unless both sides are told otherwise."""
