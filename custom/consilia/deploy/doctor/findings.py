"""What a check of ``consilia site doctor`` says: one line, and what to do where it is not good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "FAILED"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        level: ``FAILED`` where a job would not run, or where more could leave than was approved; ``warning`` for what
            somebody should know, and for what could not be checked.
        check: what was looked at.
        text: what was found.
        todo: what to do about it; empty where nothing is to be done.
    """

    level: Level
    check: str
    text: str
    todo: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", check, text)


def warning(check: str, text: str, todo: str = "") -> Finding:
    """Worth knowing, or not to be checked here and now."""
    return Finding("warning", check, text, todo)


def failed(check: str, text: str, todo: str) -> Finding:
    """Not ready."""
    return Finding("FAILED", check, text, todo)
