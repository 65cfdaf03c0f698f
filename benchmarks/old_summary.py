"""Summaries in the records under docs/results/ that were kept before records held every round.

Goes when those records are replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consilia.core.task import Task
from consilia.evaluation.rounds import Value
from consilia.evaluation.summary import Costs, ExchangeCost, ModelSummary, OverRounds, Summary, Traffic, VariantSummary
from consilia.methods.fedgpl.method import MEAN_PROMPT
from consilia.record.metrics import PRIMARY

NO_METRICS = (
    "version",
    "hd95_unit",
    "mean_query",
    "worst_site",
    "worst_site_global",
    "large_sites_mean_query_difference",
)


def old_summary(task: Task, content: Mapping[str, Any]) -> Summary:
    """The summary in an old kept record."""
    sent, exchange = content["bytes"], content["bytes"].get("exchange")
    return Summary(
        task=task,
        last=_model(task, content["last"]),
        best=_model(task, content["best"]),
        over_rounds=OverRounds(content["over_rounds"]["versions"], content["over_rounds"]),
        first_reports={"prompt_diversity": content.get("individuality", {}).get("first")},
        last_reports={"prompt_diversity": content.get("individuality", {}).get("last")},
        costs=Costs(
            down=Traffic(**sent["down"]),
            up=Traffic(**sent["up"]),
            exchange=None if exchange is None else ExchangeCost(**exchange),
            seconds=content["seconds"]["run"],
        ),
    )


def _model(task: Task, content: Mapping[str, Any] | None) -> ModelSummary | None:
    if content is None:
        return None
    primary = PRIMARY[task]
    metrics = {name: Value(value) for name, value in content.items() if name not in NO_METRICS}
    for old, new in (("worst_site", "personal"), ("worst_site_global", "global")):
        found = content[old] or {primary: None, "site": None}
        metrics[f"worst_{new}_{primary}"] = Value(found[primary], found["site"])
    return ModelSummary(
        version=content["version"],
        metrics=metrics,
        unit=content.get("hd95_unit"),
        variants=_variants(content.get("mean_query"), content.get("large_sites_mean_query_difference")),
    )


def _variants(content: Mapping[str, Any] | None, large_sites: float | None) -> dict[str, VariantSummary]:
    if content is None:
        return {}
    end = "_difference"
    differences = {name.removesuffix(end): value for name, value in content.items() if name.endswith(end)}
    metrics = {name: value for name, value in content.items() if name != "sites" and not name.endswith(end)}
    return {MEAN_PROMPT: VariantSummary(content["sites"], metrics, {**differences, "large_sites_auroc": large_sites})}
