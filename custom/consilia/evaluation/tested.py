"""Whose test cases a run's metrics are of: said in every title and legend, since an unseen site is another question."""

from __future__ import annotations

from consilia.evaluation.rounds import test_only_sites
from consilia.record.schema import Record

NO_BALANCE = "no balance: global and personal accuracy are of different sites"
"""Why a run with a test-only site has none, in a few words."""


def tested_on(*records: Record) -> str:
    """Whose test cases the global metrics, and the personal ones where there are any, are of; for a title or legend.

    Args:
        records: of one run, or of all that stand in a table.

    Returns:
        A phrase; empty for runs without sites.
    """
    found = [record for record in records if record.sites]
    apart = {tuple(test_only_sites(record)) for record in found}
    if not found:
        return ""
    if len(apart) > 1:
        return "tested on the site that was left out of each, which trained nothing"
    (unseen,) = apart
    if not unseen:
        sites = sorted({site for record in found for site in record.sites})
        return f"test cases of all {len(sites)} sites" if len(sites) > 1 else f"test cases of {sites[0]}"
    personal = any(chosen.personal for record in found for chosen in record.final.values())
    own = "; personal models on the training sites' own test cases" if personal else ""
    return f"tested on {', '.join(unseen)}, which trained nothing{own}"
