"""A job held against a site's limits: what it asks beside what the site allows, and the refusal by the limit's name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from consilia.data.limits import SiteLimits, reached, show_bytes
from consilia.federation.config import RunConfig
from consilia.federation.site_ledger import Spent
from consilia.methods.passes import batch_count

NO_LIMIT = "no limit"

HUGE = 2**53
"""A job's integers may have thousands of digits."""


@dataclass(frozen=True)
class LimitRow:
    """One limit of a site.

    Attributes:
        limit: its key under ``limits`` in site.yaml.
        asked: what a job asks, in words; empty where a job does not say, or the site's data are not known.
        allowed: what the site allows, in words.
        ok: whether the job may ask that.
    """

    limit: str
    asked: str
    allowed: str
    ok: bool = True


def compared(
    config: RunConfig,
    limits: SiteLimits,
    *,
    training_cases: Mapping[str, int] | None = None,
    model_bytes: int | None = None,
) -> list[LimitRow]:
    """A job's values beside a site's limits, one row per limit, in the order of site.yaml.

    Args:
        config: the job.
        limits: of the site.
        training_cases: of the site by dataset, where they are known; a dataset without any is not trained on.
        model_bytes: size of the job's model, where it is known.
    """
    cases = [count for count in (training_cases or {}).values() if count]
    asked: dict[str, tuple[float, str]] = {
        "max_rounds": _asked(config.rounds),
        "max_local_epochs": _epochs(config, cases),
        "max_learning_rate": _rate(config),
        "max_evaluations": _asked(_evaluations(config)),
    }
    if cases:
        batch = config.training.batch_size
        share = batch / min(cases) if batch < HUGE else math.inf
        asked["max_batch_fraction"] = share, f"{share:.3g} ({batch} of {min(cases)} cases)"
        asked["min_training_cases"] = _asked(min(cases))
    if model_bytes is not None:
        asked["max_model_bytes"] = float(model_bytes), show_bytes(model_bytes)
    return [_row(name, getattr(limits, name), asked.get(name)) for name in SiteLimits.model_fields]


def require(rows: Iterable[LimitRow]) -> None:
    """Raise :class:`~consilia.core.errors.LimitReached` for the first row that is not allowed."""
    for row in rows:
        if not row.ok:
            raise reached(row.limit, row.asked, row.allowed)


def what_to_do(limit: str) -> str:
    """What a site may do about a job that is beyond one of its limits."""
    change = "lower" if limit.startswith("min_") else "raise"
    return f"ask for another job, or {change} limits.{limit} in site.yaml, if you agree"


def left(config: RunConfig, limits: SiteLimits, spent: Spent) -> list[tuple[str, int, int]]:
    """Of each limit that counts requests: its name, how many a whole run of the job asks, and how many are left."""
    counted = (
        ("max_rounds", config.rounds, limits.max_rounds, spent.rounds),
        ("max_evaluations", _evaluations(config), limits.max_evaluations, spent.evaluations),
    )
    return [(name, asked, allowed - gone) for name, asked, allowed, gone in counted if allowed is not None]


def _asked(value: int) -> tuple[float, str]:
    # Python compares an integer of any length with a float, and turns none beyond 1e308 into one.
    return value, f"{value:,}"


def _row(name: str, limit: float | None, asked: tuple[float, str] | None) -> LimitRow:
    value, text = asked or (math.nan, "")
    if limit is None:
        return LimitRow(name, text, NO_LIMIT)
    shown = show_bytes(int(limit)) if name in ("max_model_bytes", "max_memory", "max_disk") else f"{limit:,}"
    within = value >= limit if name.startswith("min_") else value <= limit
    return LimitRow(name, text, shown, within or asked is None)


def _epochs(config: RunConfig, cases: list[int]) -> tuple[float, str]:
    """The most passes over the training cases in one request: of the training, and of the method's own kinds.

    Steps are passes only where the training cases are known; elsewhere they are named beside the passes.
    """
    training, steps = config.training, config.training.local_steps
    own = sum(value for name, value in _own_numbers(config) if name.endswith("epochs") and isinstance(value, int))
    personal = training.personalise_epochs or 0
    if steps is None:
        return _asked(max(training.local_epochs, personal) + own)
    said = f"{steps:,} steps of {training.batch_size:,} cases"
    if not cases:
        return personal + own, said + (f", and {personal + own:,}" if personal + own else "")
    passes = max(-(-steps // batch_count(min(cases), training)), personal) + own
    return passes, f"{passes:,} ({said})"


def _rate(config: RunConfig) -> tuple[float, str]:
    """The largest step along a gradient: weight decay and a method's factors (mu, say) multiply it, or parts of it.

    Steps along one gradient add up to 1 / (1 - momentum) times the rate: ten times with the customary 0.9, which is not
    counted.
    """
    training = config.training
    factors = {"training.weight_decay": training.weight_decay}
    factors |= {f"method.{name}": abs(value) for name, value in _own_numbers(config) if isinstance(value, float)}
    if training.optimiser == "sgd":
        factors["0.1 / (1 - training.momentum)"] = round(0.1 / (1 - training.momentum), 6)
    counted = {name: factor for name, factor in factors.items() if factor > 1}
    rate = math.prod(counted.values(), start=training.learning_rate)
    text = "".join(f" times {name} {factor:g}" for name, factor in counted.items())
    return rate, f"{rate:g} ({training.learning_rate:g}{text})" if text else f"{rate:g}"


def _own_numbers(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """The numbers among the method's own parameters; those in sections of their own are the server's."""
    for name in type(config.method).model_fields:
        value = getattr(config.method, name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value


def _evaluations(config: RunConfig) -> int:
    """Requests with metrics: one per version that is evaluated, and the last and the best model at the end.

    A classification of two classes, which its configuration does not tell, asks for the last model's threshold, too.
    """
    every = config.evaluate_every
    return (-(-config.rounds // every) if every else 0) + (3 if config.task == "classification" else 2)
