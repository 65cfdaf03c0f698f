"""What reports show of FedKPer: reliability and label diversity, of which its weights are made."""

from __future__ import annotations

from pathlib import Path

from consilia.evaluation.rounds import mean, training_sites
from consilia.record.schema import Record
from consilia.report import plots
from consilia.report.html import fill
from consilia.report.panel import Panel

EPSILON = 1e-6  # s_k = a_k (d_k + 1e-6), specification 3.1


def run_panels(record: Record) -> list[Panel]:
    """Reliability a_k and diversity d_k by site and round, where the run's sites reported what they follow from."""
    reliability: dict[str, dict[int, float]] = {}
    diversity: dict[str, dict[int, float]] = {}
    for part in record.rounds:
        for site, contribution in part.contributions.items():
            accuracy, score = contribution.fields.get("train_accuracy"), contribution.fields.get("weight")
            if accuracy is None or score is None:
                continue
            reliability.setdefault(site, {})[part.round] = accuracy
            if accuracy > 0:
                diversity.setdefault(site, {})[part.round] = min(max(score / accuracy - EPSILON, 0.0), 1.0)
    if not reliability:
        return []
    sites = training_sites(record)
    drawing = plots.weights(sites, {"Reliability": reliability, "Diversity": diversity})
    rows = {site: (mean(reliability.get(site, {}).values()), mean(diversity.get(site, {}).values())) for site in sites}
    return [Panel(fill(Path(__file__).parent, "weights.html", drawing=drawing, rows=rows))]
