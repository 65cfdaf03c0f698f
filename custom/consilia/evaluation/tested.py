"""Whose test cases a run's metrics are of: said in every title and legend, since an unseen site is another question."""

from __future__ import annotations

from consilia.evaluation.rounds import test_only_sites
from consilia.record.schema import Record

NO_BALANCE = "no balance: global and personal accuracy are of different sites"
"""Why a run with a test-only site has none, in a few words."""


def tested_on(record: Record) -> str:
    """Whose test cases the global metrics, and the personal ones where there are any, are of; for a title or legend.

    Empty for a run without sites.
    """
    unseen, count = test_only_sites(record), len(record.sites)
    if not unseen:
        return (
            f"test cases of all {count} sites"
            if count > 1
            else "".join(f"test cases of {site}" for site in record.sites)
        )
    alone = f"{unseen[0]}, which trained" if len(unseen) == 1 else f"{', '.join(unseen)}, which trained"
    personal = any(chosen.personal for chosen in record.final.values())
    return f"tested on {alone} nothing" + (
        "; personal models on the training sites' own test cases" if personal else ""
    )
