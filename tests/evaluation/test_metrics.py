"""A new metric is one entry with the function that computes it: every table and page then has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from consilia.core.errors import ConfigError
from consilia.evaluation.compare import comparison_table, to_markdown
from consilia.evaluation.metrics import FINAL, FinalMetric
from consilia.evaluation.summary import summarise
from consilia.record.metrics import PREDICTIONS, selectable
from consilia.report.html import render_report
from tests.report.factory import make_record
from tests.report.reading import read

SPREAD = FinalMetric(
    "smallest_site",
    "Smallest site",
    "rounds",
    None,
    "fewest test cases of a site that scores the global model",
    compute=lambda view: min(part.count for part in view.tested.values()),
    brief=True,
)


@pytest.fixture
def new_metric() -> Iterator[None]:
    FINAL.add("classification", [SPREAD])
    yield
    FINAL.remove("classification", SPREAD.name)


@pytest.mark.usefixtures("new_metric")
def test_one_entry_puts_a_metric_into_summary_comparison_and_report() -> None:
    records = [make_record(seed=seed, rounds=2, test_only=False) for seed in (1, 2)]  # Dover has 25 test cases
    assert summarise(records[0]).numbers("last")["smallest_site"] == 25
    table = to_markdown(comparison_table(records)).splitlines()
    assert table[0].endswith("| Smallest site |")
    assert table[2].endswith("| 25 ± 0 |")
    assert "Smallest site 25 25 fewest test cases of a site" in read(render_report(records[:1])).text
    assert "Smallest site" in read(render_report(records)).text


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="'balance' of classification is registered already"):
        FINAL.add("classification", [FINAL.get("classification", "balance")])
    with pytest.raises(ConfigError, match="no metric 'bwt' of segmentation; known: global_dice_box"):
        FINAL.get("segmentation", "bwt")


def test_which_metrics_select_the_best_round_and_which_way_is_better() -> None:
    assert selectable("classification") == ["accuracy", "balanced_accuracy", "auroc", "loss"]
    assert selectable("segmentation") == ["dice"]
    assert PREDICTIONS.get("classification", "loss").oriented(0.3) == -0.3
    assert PREDICTIONS.get("classification", "auroc").oriented(0.3) == 0.3
