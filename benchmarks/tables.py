"""Print the Markdown tables of docs/results/ from the records of a study.

python -m benchmarks.tables runs/heart-disease --keep docs/results/heart-disease
python -m benchmarks.tables docs/results/heart-disease
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from consilia.core.files import write_json
from consilia.evaluation.compare import comparison_table, to_markdown
from consilia.evaluation.summary import summarise
from consilia.federation.study import load_study
from consilia.report.record import load_record

TABLES = {
    "Last round": [
        "last.global_accuracy",
        "last.global_auroc",
        "last.personal_accuracy",
        "last.personal_auroc",
        "last.worst_site.accuracy",
        "last.balance",
    ],
    "Best-validation round": [
        "best.global_accuracy",
        "best.global_auroc",
        "best.personal_accuracy",
        "best.personal_auroc",
        "best.worst_site.accuracy",
        "best.balance",
    ],
    "Mean over rounds (the paper's reading)": [
        "over_rounds.global_accuracy",
        "over_rounds.personal_accuracy",
        "over_rounds.balance",
        "over_rounds.bwt",
        "over_rounds.nfr_global",
        "over_rounds.nfr_personal",
        "over_rounds.consistency_global",
    ],
}


def compact(record: dict[str, Any]) -> dict[str, Any]:
    """What stays in the repository of a run: what was run, on what data, and the summary; not every round."""
    kept = {key: record[key] for key in ("schema", "run", "config", "versions", "sites", "class_names")}
    return {**kept, "summary": summarise(record), "sha256": {k: v["sha256"] for k, v in record["final"].items()}}


def load(folder: Path) -> list[dict[str, Any]]:
    """Compact records of a study's folder, or of a folder of compact records."""
    kept = [json.loads(path.read_text()) for path in sorted(folder.glob("*-seed*.json"))]
    run = [compact(load_record(path).plain()) for path in sorted(folder.glob("*-seed*/result.json"))]
    order = [*load_study("wisconsin").methods, "centralised", "local-only", "majority"]
    return sorted(kept + run, key=lambda record: (order.index(record["run"]["label"]), record["run"]["seed"]))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", type=Path, help="also write the compact records to this folder")
    arguments = parser.parse_args()
    records = load(arguments.folder)
    if arguments.keep is not None:
        for record in records:
            write_json(arguments.keep / f"{record['run']['name']}.json", record)
    rows = comparison_table(records)
    for title, keys in TABLES.items():
        shown = [row for row in rows if any((row["figures"].get(key) or {}).get("mean") is not None for key in keys)]
        print(f"**{title}**\n\n{to_markdown(shown, keys)}")


if __name__ == "__main__":
    main()
