"""What reports show of Fed-GPL: whether the generated prompts differ between images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from consilia.evaluation.compare import comparison_table
from consilia.evaluation.rounds import mean, reported
from consilia.methods.fedgpl.plots import prompt_diversity
from consilia.record.schema import Record
from consilia.report.html import fill
from consilia.report.panel import Panel

FIELD = "prompt_diversity"
FOLDER = Path(__file__).parent


def run_panels(record: Record) -> list[Panel]:
    """Prompt diversity by round and site, of a run that reported it."""
    by_round = reported(record, FIELD)
    if not by_round:
        return []
    by_site: dict[str, dict[int, float]] = {}
    for number, ratios in by_round.items():
        for site, ratio in ratios.items():
            by_site.setdefault(site, {})[number] = ratio
    means = {number: sum(ratios.values()) / len(ratios) for number, ratios in by_round.items()}
    html = fill(
        FOLDER,
        "prompts.html",
        drawing=prompt_diversity(by_site, means),
        sites={site: (ratios[min(ratios)], ratios[max(ratios)]) for site, ratios in sorted(by_site.items())},
        first=mean(by_round[min(by_round)].values()),
        last=mean(by_round[max(by_round)].values()),
        ablation=any(chosen.variants for chosen in record.final.values()),
    )
    return [Panel(html)]


def comparison_panels(records: Sequence[Record]) -> list[Panel]:
    """Prompt diversity in the first and the last round, of the labels that reported it."""
    rows = [row for row in comparison_table(records) if row.spread("last_report", FIELD).n]
    return [Panel(fill(FOLDER, "compared.html", rows=rows, name=FIELD))] if rows else []
