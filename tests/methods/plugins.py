"""Methods that come as a file, for the tests of one process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consilia.methods import registry
from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples" / "methods"
EXAMPLE_METHODS = ("qfedavg",)


@contextmanager
def plugin(path: Path) -> Iterator[None]:
    """The file's methods are registered inside the block."""
    registry.load_plugin(path)
    try:
        yield
    finally:
        os.environ.pop(registry.PLUGIN, None)
        registry._plugins.cache_clear()


@contextmanager
def with_method(name: str) -> Iterator[None]:
    """An installed method, or one of the examples."""
    if name in EXAMPLE_METHODS:
        with plugin(EXAMPLES / f"{name}.py"):
            yield
    else:
        yield
