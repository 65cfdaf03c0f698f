"""When runs may be compared: the same sites' data and the same data of the server."""

from __future__ import annotations

import pytest

from consilia.record.schema import Record
from consilia.report.comparison_page import _same_data
from tests.evaluation.records import whole


def record(sites: dict[str, str], server: str | None = None) -> Record:
    named = {site: {"fingerprint": found} for site, found in sites.items()}
    return whole({"sites": named, "server_fingerprint": server})


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
def test_a_run_without_sites_saw_no_other_data(records: list[Record], same: bool) -> None:
    assert _same_data(records) is same
