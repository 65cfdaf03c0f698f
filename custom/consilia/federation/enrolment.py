"""Who takes part: decided once, from what the sites say of themselves when a run begins or goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consilia.core.errors import RunFailed
from consilia.federation.config import RunConfig
from consilia.federation.messages import PrepareReply
from consilia.methods.registry import make_method
from consilia.record.schema import SiteInfo


def common_classes(replies: Mapping[str, PrepareReply]) -> list[str]:
    """The class list that more than half of the sites have: one odd site must not end the run for the others.

    Raises:
        RunFailed: no list has a majority.
    """
    lists = [list(reply.class_names) for reply in replies.values()]
    for candidate in lists:
        if 2 * sum(other == candidate for other in lists) > len(lists):
            return candidate
    reported = "; ".join(f"{site}: {list(reply.class_names)}" for site, reply in sorted(replies.items()))
    raise RunFailed(f"sites disagree on the classes, in number or order: {reported}")


def common_columns(replies: Mapping[str, PrepareReply]) -> int | None:
    """Of how many columns or channels more than half of the sites with sums send them; None: no number has a majority.

    As with the classes, one odd site must not end the run for the others.
    """
    lengths = [len(reply.moments.values) for reply in replies.values() if reply.moments is not None]
    return next((each for each in lengths if 2 * lengths.count(each) > len(lengths)), None)


def why_not(
    site: str,
    reply: PrepareReply,
    config: RunConfig,
    *,
    classes: Sequence[str],
    known: Mapping[str, SiteInfo] | None,
    columns: int | None = None,
) -> str | None:
    """Why a site that answered cannot take part, or None.

    Args:
        site: its name.
        reply: what it says of itself.
        config: the run. It names the ``test_only_sites``: a site cannot make itself one, since the
            global metric is then its alone.
        classes: the run's class list.
        known: the sites of the interrupted run that goes on, or None for a new one.
        columns: of how many columns or channels the sites pool sums; None: of any number.
    """
    if list(reply.class_names) != list(classes):
        return f"its classes are {list(reply.class_names)}, those of the others {list(classes)}"
    datasets, test_only_sites = make_method(config.method).datasets(), config.test_only_sites
    cases, own = reply.train if datasets else 0, reply.datasets
    if bool(own) != bool(datasets) or set(own) - set(datasets) or sum(own.values()) != cases:
        names = sorted(datasets) or "no dataset"
        return f"its training cases by dataset are {str(own)[:200]}, expected {cases} in all, of {names}"
    if reply.train == 0 and site not in test_only_sites:
        return "it has no training cases, and the run does not name it among its test_only_sites"
    if reply.train > 0 and site in test_only_sites:
        return f"the run names it as a test-only site, but it has {reply.train} training cases"
    if config.preprocessing == "pooled" and (reply.moments is None) == (reply.train > 0):
        return "the run pools preprocessing, and it sends no sums of its values, or has none to send"
    if columns is not None and reply.moments is not None and len(reply.moments.values) != columns:
        return f"its sums are of {len(reply.moments.values)} columns or channels, those of the others of {columns}"
    if known is not None and site not in known:
        return "it was not there when the run began"
    if known is not None and known[site].fingerprint != reply.fingerprint:
        return "it has other data than when the run began"
    return None
