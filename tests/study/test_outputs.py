"""The files of a study: equal to the byte, nothing dropped, labels escaped."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from consilia.core.errors import DataError
from consilia.record.study_result import RESULT, StudyResult, load_result
from consilia.report.panel import TextTable
from consilia.report.study_tables import study_tables
from consilia.report.table_text import latex_table, markdown_table
from consilia.study.analysis import analyse
from consilia.study.claims import Claim
from consilia.study.outputs import LATEX, PAGE, SCORES, TABLES, write_outputs, write_tables
from tests.study.made_study import NO_ROUNDS, classified, plan

HOSTILE = "a|b_c & <script>alert(1)</script> $x^2$ #1 100% {y} ~ \\end{tabular} [z](http://w)"
CLAIM = Claim(name="better", metric="auroc", method=HOSTILE, against="fedavg")


def study(**columns: object) -> StudyResult:
    rows = classified({"fedavg": 1.0, HOSTILE: 1.6}, sites={"a": 40, "b": 30}, seeds=[0, 1])
    return analyse(rows, plan(rows, **columns), NO_ROUNDS, [CLAIM], draws=60)


def test_equal_inputs_give_equal_bytes_whatever_the_times(tmp_path: Path) -> None:
    write_tables(study(seconds=1.0), tmp_path / "one")
    write_tables(study(seconds=7.7), tmp_path / "two")
    for name in (TABLES, LATEX, SCORES, "claims.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert "7.70 s" in (tmp_path / "two" / "costs.md").read_text()


def test_tables_can_be_made_again_from_the_result_alone(tmp_path: Path) -> None:
    write_outputs(study(), tmp_path / "one")
    write_outputs(load_result(tmp_path / "one" / RESULT), tmp_path / "again")
    assert (tmp_path / "one" / PAGE).is_file()
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_labels_are_escaped(tmp_path: Path) -> None:
    write_tables(study(), tmp_path)
    markdown, latex = ((tmp_path / name).read_text() for name in (TABLES, LATEX))
    assert (
        r"a\|b\_c \& \<script\>alert(1)\</script\> \$x^2\$ \#1 100% \{y\} \~ \\end\{tabular\} \[z\](http://w)"
        in markdown
    )
    assert "<script>" not in markdown.replace(r"\<script\>", "")
    assert r"a\textbar{}b\_c \& \textless{}script\textgreater{}alert(1)" in latex
    assert r"\textbackslash{}end\{tabular\}" in latex
    assert latex.count(r"\end{tabular}") == latex.count(r"\begin{tabular}")


def test_golden_of_a_tiny_table() -> None:
    table = TextTable("A & B", ["method", "AUROC"], [["f_1", "0.812 [0.790, 0.834]"], ["g", "–"]], "Two methods.")
    assert markdown_table(table) == (
        "**A \\& B**\n\n| method | AUROC |\n|---|---|\n| f\\_1 | 0.812 [0.790, 0.834] |\n| g | – |\n\nTwo methods.\n"
    )
    assert latex_table(table, "x_1").splitlines() == [
        r"\begin{table}",
        r"\caption{A \& B. Two methods.}",
        r"\label{tab:x-1}",
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"method & AUROC \\",
        r"\midrule",
        r"f\_1 & 0.812 {[}0.790, 0.834{]} \\",
        r"g & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_csv_holds_every_score(tmp_path: Path) -> None:
    result = study()
    write_tables(result, tmp_path)
    with (tmp_path / SCORES).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.scores)
    found = next(row for row in rows if row["metric"] == "auroc" and row["site"] == "a" and row["method"] == "fedavg")
    score = next(one for one in result.scores if one.metric == "auroc" and one.site == "a" and one.method == "fedavg")
    assert float(found["value"]) == pytest.approx(score.value, abs=1e-6)
    assert found["units"] == "40"


def test_runs_without_a_result_are_listed_with_reason_and_command(tmp_path: Path) -> None:
    rows = classified({"fedavg": 1.0, "fedbn": 1.0}, sites={"a": 40}, seeds=[0])
    runs = plan(rows)
    runs.loc[runs["method"] == "fedbn", ["status", "reason"]] = ["cannot", "the model has no norm layers"]
    runs.loc[0, ["status", "reason"]] = ["failed", "loss is NaN in round 3"]
    result = analyse(rows, runs, NO_ROUNDS, [], draws=20)
    # What a failed run has left is no result.
    assert {(score.method, score.runs) for score in result.scores} == {("fedavg", 2)}
    write_tables(result, tmp_path)
    text = (tmp_path / TABLES).read_text()
    assert "| heart | – | fedavg | 0 | 0 | failed | loss is NaN in round 3 | consilia compare study.yaml |" in text
    assert text.count("the model has no norm layers") == 3
    assert "| fedbn | training labels of all sites | 0 of 3 | 0.01 | – | – |" in text


def test_all_failed(tmp_path: Path) -> None:
    rows = classified({"fedavg": 1.0}, sites={"a": 40})
    runs = plan(rows, status="failed", reason="no memory")
    for predictions in (rows, rows.iloc[:0], pd.DataFrame()):
        result = analyse(predictions, runs, NO_ROUNDS, [CLAIM], draws=20)
        assert result.contrasts[0].verdict == "not decided"
        write_tables(result, tmp_path)
        assert "heart: no run has a result" in (tmp_path / TABLES).read_text()


def test_rates_at_a_grids_end_are_said(tmp_path: Path) -> None:
    write_tables(study(edge=True), tmp_path)
    text = (tmp_path / TABLES).read_text()
    assert "0.01\\*" in text
    assert "the best rate of fedavg lies at its grid's end" in text


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        load_result(tmp_path / RESULT)
    (tmp_path / RESULT).write_text('{"draws": 5, "seed": 0, "sores": []}')
    with pytest.raises(DataError, match=r"sores.*did you mean 'scores'"):
        load_result(tmp_path / RESULT)


def test_of_small_sites_alone_there_is_no_table_of_their_spread() -> None:
    for cases, there in ((12, False), (60, True)):
        rows = classified({"m": 1.0}, sites={"a": cases, "b": cases}, folds=1, seeds=[0], models=["global"])
        assert ("spread" in study_tables(analyse(rows, plan(rows), NO_ROUNDS, [], draws=10))) == there
