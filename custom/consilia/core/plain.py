"""Text of strangers, made fit to be shown: names and messages of a site, a job, a server or a file of others.

A line break forges a line of a log, an escape sequence steers a terminal, and characters that are not seen or that
turn the order of writing make one name look like another. Letters of every script stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories of what is not shown as itself: controls, formats (bidirectional, zero width), separators."""

_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks that are not seen either: fillers, selectors of variants."""

ERROR_KIND = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}")
UNNAMED_ERROR = "an unnamed error"


def plain(text: object, limit: int | None = None, *, keep: str = "") -> str:
    """The text with everything that is not shown as itself written as an escape, such as ``\\x1b``.

    Args:
        text: of a stranger.
        limit: longest result; what is longer ends in three dots.
        keep: characters that stay nevertheless, such as line breaks between lines of our own.
    """
    shown = str(text)
    if not shown.isprintable() or _BLANK.search(shown):
        shown = "".join(letter if letter in keep or _seen(letter) else _escape(letter) for letter in shown)
    return shown if limit is None or len(shown) <= limit else shown[: limit - 3] + "..."


def one_line(message: object, limit: int | None = None) -> str:
    """A message of our own, which may have several lines and quote strangers, for a log."""
    return plain(" ".join(str(message).split("\n")), limit)


def plain_json(value: Any) -> Any:
    """A JSON value with every key and every string :func:`plain`."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {plain(key): plain_json(own) for key, own in value.items()}
    return [plain_json(own) for own in value] if isinstance(value, list) else value


def error_kind(name: str) -> str:
    """The class name of an error, as a site says it; what cannot be one is not repeated."""
    return name if ERROR_KIND.fullmatch(name) else UNNAMED_ERROR


def _require_plain(text: str) -> str:
    if text != plain(text):
        raise ValueError("expected no control characters, line breaks or characters that are not seen")
    return text


PlainText = Annotated[str, AfterValidator(_require_plain)]
"""In a schema: a name that is refused where it would have to be escaped."""


def _seen(letter: str) -> bool:
    return unicodedata.category(letter) not in HIDDEN and not _BLANK.match(letter)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
