"""Text of models and files made safe to look at: what would hide, reorder or overwrite is shown by its number."""

from __future__ import annotations

import unicodedata

LIMIT = 4000
"""Characters of a text that are shown."""
KEPT = "\n\t\u200c\u200d"
"""Line feed, tab and the two joiners that scripts and emoji need."""


def visible(text: str) -> str:
    """`text` with control, bidirectional, invisible and half characters written as [U+202E]."""
    return text if text.isascii() and text.isprintable() else "".join(_shown(char) for char in text)


def shortened(text: str) -> str:
    """The first `LIMIT` characters, and how many more there are."""
    return text if len(text) <= LIMIT else f"{text[:LIMIT]} [... {len(text) - LIMIT} more characters]"


def _shown(char: str) -> str:
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") and char not in KEPT
    return f"[U+{ord(char):04X}]" if hidden else char
