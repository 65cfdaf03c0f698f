"""When runs may be compared: the same sites' data and the same data of the server."""

from __future__ import annotations

from typing import Any

import pytest

from consilia.report.comparison_page import _same_data


def record(sites: dict[str, str], server: str | None = None) -> dict[str, Any]:
    injection = None if server is None else {"fingerprint": server}
    return {"sites": {site: {"fingerprint": found} for site, found in sites.items()}, "injection": injection}


@pytest.mark.parametrize(
    ("records", "same"),
    [
        ([record({"a": "1"}), record({"a": "1"})], True),
        ([record({"a": "1"}), record({"a": "2"})], False),
        ([record({"a": "1"}), record({"a": "1", "b": "1"})], False),
        ([record({"a": "1"}, "s"), record({}, "s")], True),
        ([record({"a": "1"}, "s"), record({}, "t")], False),
    ],
)
def test_a_run_without_sites_saw_no_other_data(records: list[dict[str, Any]], same: bool) -> None:
    assert _same_data(records) is same
