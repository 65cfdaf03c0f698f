"""Reports of several tasks and of knowledge injection: what stands beside what, and that nothing else changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consilia.methods.fedkim.comparison import answer_tables
from consilia.methods.fedkim.panels import answer_means, answer_rows, few_shot_rows
from consilia.methods.fedkim.plots import learning, routing
from consilia.methods.shown import panels_of, scalars_of, tables_of
from consilia.record.files import load_record, save_record
from consilia.record.metrics import show
from consilia.record.schema import Record
from consilia.report.html import render_report, write_report
from consilia.report.tensorboard import write_events
from tests.methods.fedkim.records import SEEN, make_injection_record, make_tasked_record
from tests.report.factory import make_record
from tests.report.reading import assert_self_contained, metrics, read

pytestmark = pytest.mark.slow


def report(records: list[Record]) -> str:
    return render_report(records, panels_of(records))


@pytest.fixture(scope="module")
def record() -> Record:
    return make_injection_record()


@pytest.fixture(scope="module")
def run_html(record: Record) -> str:
    return report([record])


def test_self_contained_and_the_same_from_the_file(record: Record, run_html: str, tmp_path: Path) -> None:
    assert_self_contained(run_html)
    assert not re.search(r"\b(nan|None)\b", read(run_html).text)
    save_record(record, tmp_path / "result.json")
    loaded = [load_record(tmp_path / "result.json")]
    write_report(loaded, tmp_path / "report.html", panels_of(loaded))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == run_html


def test_every_answerer_stands_beside_the_language_model(record: Record, run_html: str) -> None:
    text = read(run_html).text
    test = record.plain()["sections"]["fedkim"]["test"]
    found = test["injected"]["opacity"]["closed"]
    low, high = found["intervals"]["auroc"]
    accuracy = f"{show(found['accuracy'], 'percent')} " + " to ".join(
        show(end, "percent") for end in found["intervals"]["accuracy"]
    )
    assert f"opacity injected language model 120 100 {accuracy} {found['auroc']:.3f} {low:.3f} to {high:.3f}" in text
    assert "aggregated small model 120 100 83.0 % 77.0 % to 87.0 % 0.880 0.820 to 0.920" in text
    seen = text[text.index("Seen tasks, closed") : text.index("Unseen tasks, closed")]
    unseen = text[text.index("Unseen tasks, closed") : text.index("Unseen tasks, open")]
    assert "aggregated small model" in seen
    assert "aggregated small model" not in unseen  # it has no head for them
    assert "linear model 2 tasks 65.0 % 0.700 0.700 0.600" in unseen
    assert "captions injected language model 60 60 0.300" in text
    assert "Seen tasks, open" not in text


def test_the_opening_gives_the_means(record: Record, run_html: str) -> None:
    text = read(run_html).text
    test = record.plain()["sections"]["fedkim"]["test"]["injected"]
    seen = (test["opacity"]["closed"]["auroc"] + test["arrhythmia"]["closed"]["auroc"]) / 2
    unseen = (test["murmur"]["closed"]["auroc"] + test["questions"]["closed"]["auroc"]) / 2
    assert f"2 seen tasks with a mean AUROC of {seen:.3f} (the aggregated small model: 0.830)" in text
    assert f"2 unseen tasks, for which it was not trained, it reaches {unseen:.3f}" in text
    assert "3 sites (Ashford, Bergen, Cádiz), with 960 training cases in all, of 2 tasks trained together" in text
    assert "130 000 parameters; 3 000 000 stay frozen" in text


def test_who_contributed_to_what(run_html: str) -> None:
    text = read(run_html).text
    assert "Ashford 200 400 600 Bergen – 240 240 Cádiz 120 – 120 all sites 320 640 960" in text
    assert "Bergen opacity 60" in text  # the small model at home
    assert "Personal accuracy" not in text  # there are no personal models


def test_few_shots_ascend_from_the_injected_model(record: Record) -> None:
    injection = record.plain()["sections"]["fedkim"]
    rows = few_shot_rows(injection, "closed")
    assert [(row["task"], row["cases"]) for row in rows] == [("murmur", shot) for shot in ("0", "8", "32", "all")]
    assert [row["metrics"]["auroc"] for row in rows][1:] == [0.66, 0.72, 0.8]
    assert rows[0]["metrics"] == injection["test"]["injected"]["murmur"]["closed"]
    assert [row["cases"] for row in few_shot_rows(injection, "open")] == ["0", "8"]


def test_means_leave_out_what_is_undefined() -> None:
    test = {
        "injected": {"a": {"closed": {"auroc": 0.6, "f1": None}, "open": None}, "b": {"closed": {"auroc": 0.8}}},
        "linear": {"a": {"closed": {"auroc": 0.5}}, "b": None},
    }
    means = answer_means(answer_rows(test, ["a", "b", "c"], "closed"), "closed")
    assert [(row["who"], row["tasks"]) for row in means] == [("injected", 2), ("linear", 1)]
    assert means[0]["metrics"]["auroc"] == pytest.approx(0.7)
    assert means[0]["metrics"]["f1"] is None


def test_without_injection_the_tasks_are_still_told_apart() -> None:
    html = report([make_tasked_record()])
    assert_self_contained(html)
    text = read(html).text
    assert "What it answers" not in text
    assert "right on 77.5 % of the test cases of all tasks" in text
    assert "Ashford arrhythmia 50" in text


def test_before_the_first_test_there_is_a_report_too(record: Record) -> None:
    content = record.plain()
    content["sections"]["fedkim"].update(test={}, rounds=[], few_shot={})
    text = read(report([Record.model_validate(content)])).text
    assert "AUROC, unseen tasks –" in text
    assert "Which expert" not in text


def test_one_expert_needs_no_map(record: Record, run_html: str) -> None:
    assert "Which expert serves which task" in read(run_html).text
    assert len(metrics(run_html)) == 4  # routing, learning, accuracy at the sites, weights
    assert routing({"a": [1.0]}, 1) is None
    assert routing({}, 0) is None
    assert routing({f"task {n}": list(np.full(32, 1 / 32)) for n in range(12)}, 4) is not None
    assert learning([], ["a"]) is None


def test_names_of_tasks_are_escaped(record: Record) -> None:
    content = record.plain()
    name = "<i>$A_{</i>$"
    injection = content["sections"]["fedkim"]
    injection["unseen"] = [name if task == "murmur" else task for task in injection["unseen"]]
    for tasks in (*injection["test"].values(), injection["few_shot"], *(one["gates"] for one in injection["rounds"])):
        if "murmur" in tasks:
            tasks[name] = tasks.pop("murmur")
    html = report([Record.model_validate(content)])
    assert "i" not in read(html).tags
    assert name in read(html).text


def comparison(*records: Record) -> list[dict[str, Any]]:
    return answer_tables(records)


def test_comparison_of_single_seeds_has_intervals(record: Record) -> None:
    plug = make_injection_record(label="FedPlug", lift=-0.1)
    closed, small, opened = comparison(record, plug, make_tasked_record())
    assert [label for label, _ in closed["columns"]] == ["FedKIM", "FedPlug", "linear model", "majority answer"]
    assert [row["name"] for row in closed["rows"]] == [
        *SEEN,
        "mean of seen tasks",
        "murmur",
        "questions",
        "mean of unseen tasks",
    ]
    test = plug.plain()["sections"]["fedkim"]["test"]["injected"]
    found = test["murmur"]["closed"]
    low, high = found["intervals"]["auroc"]
    assert closed["rows"][3]["cells"][1] == {"value": f"{found['auroc']:.3f}", "between": f"{low:.3f} to {high:.3f}"}
    expected = (test["opacity"]["closed"]["auroc"] + test["arrhythmia"]["closed"]["auroc"]) / 2
    assert closed["rows"][2]["cells"][1] == {"value": f"{expected:.3f}", "between": None}
    assert [row["name"] for row in small["rows"]] == [*SEEN, "mean of seen tasks"]
    assert [label for label, _ in opened["columns"]] == ["FedKIM", "FedPlug", "majority answer"]


def test_comparison_over_seeds_has_spreads() -> None:
    seeds = [make_injection_record(seed=seed) for seed in (1, 2)]
    first, second = (
        one.plain()["sections"]["fedkim"]["test"]["injected"]["opacity"]["closed"]["auroc"] for one in seeds
    )
    cell = comparison(*seeds)[0]["rows"][0]["cells"][0]
    expected = f"{(first + second) / 2:.3f} ± {abs(first - second) / 2**0.5:.3f}"
    assert cell == {"value": expected, "between": None}


def test_a_mean_over_fewer_tasks_says_so(record: Record) -> None:
    content = make_injection_record(label="Short").plain()
    del content["sections"]["fedkim"]["test"]["injected"]["questions"]
    cells = comparison(record, Record.model_validate(content))[0]["rows"][-1]["cells"]
    assert cells[0]["between"] is None
    assert cells[1]["between"] == "of 1 task"


def test_comparison_page(record: Record) -> None:
    html = report([record, make_injection_record(label="FedPlug", lift=-0.1), make_tasked_record()])
    assert_self_contained(html)
    text = read(html).text
    assert text.index("What the language models answer") < text.index("The models at the sites")
    assert "Small model only 1 77.5 %" in text
    assert "Forgetting" not in text
    assert "Personal" not in text
    assert not re.search(r"\b(nan|None)\b", text)


def test_other_comparisons_have_no_answers() -> None:
    assert comparison(make_record(rounds=2)) == []
    assert "language model" not in read(report([make_record(rounds=2), make_record(rounds=2, seed=2)])).text


def test_tensorboard_has_the_injection(record: Record, tmp_path: Path) -> None:
    write_events(record, tmp_path, scalars_of(record))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [one.value for one in events.Scalars("injection/loss/opacity")] == pytest.approx([1.2, 0.6, 0.4, 0.3])
    assert events.Scalars("injection/validation_auroc/opacity")[-1].value == pytest.approx(0.8)


def test_the_terminal_has_the_answers_by_task(record: Record) -> None:
    (table,) = tables_of([record])
    assert table.columns == ["task", record.run.name, "small model", "linear", "majority"]
    auroc = record.plain()["sections"]["fedkim"]["test"]["injected"]["murmur"]["closed"]["auroc"]
    assert ["murmur", f"{auroc:.3f}", "–", "0.700", "0.500"] in table.rows
    assert tables_of([make_record(rounds=2)]) == []
