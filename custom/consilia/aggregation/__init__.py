"""What becomes of a round's updates: their validation, the store on disk, the weighted mean and robust rules."""

from consilia.aggregation.mean import Rule, mean_of_updates, normalised, partial_mean, weighted_mean
from consilia.aggregation.robust import clipped, rule_of
from consilia.aggregation.store import UpdateSpool
from consilia.aggregation.validation import MAX_INTEGER, check_update
from consilia.core.errors import UpdateRejected

__all__ = [
    "MAX_INTEGER",
    "Rule",
    "UpdateRejected",
    "UpdateSpool",
    "check_update",
    "clipped",
    "mean_of_updates",
    "normalised",
    "partial_mean",
    "rule_of",
    "weighted_mean",
]
