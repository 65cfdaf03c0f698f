"""``consilia ask``: an injected model read back from disk answers new cases; what does not fit is told."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from consilia.cli.app import app
from consilia.data.site import load_site_config
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import own_server
from consilia.methods.fedkim.cases import load_server_cases
from consilia.methods.fedkim.saved import load_injected
from tests.federation.clinics import clinics_config, write_clinics


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ask")
    files = write_clinics(folder / "sites")
    config = clinics_config(("rounds=1", "method.evaluation.few_shot=[]"))
    run_inprocess(config, files, folder / "run", server=own_server(config, files))
    rows = ["id,x0,x1,x2,x3,x4", "anna,2.5,0,0.1,0,0", "bert,-2.5,0,0.1,0,0"]
    (folder / "new.csv").write_text("\n".join(rows) + "\n")
    return folder


def ask(ran: Path, *arguments: str):
    site = ran / "sites" / "server" / "data.yaml"
    return CliRunner().invoke(app, ["ask", str(ran / "run" / "injected"), "--site", str(site), *arguments])


def test_every_case_gets_an_answer_with_its_probabilities(ran: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    result = ask(ran, "--task", "sepsis", "--cases", str(ran / "new.csv"), "--out", str(out))
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(out.open()))
    assert [row["case"] for row in rows] == ["anna", "bert"]
    for row in rows:
        p = {answer: float(row[f"p_{answer}"]) for answer in ("no", "yes")}
        assert sum(p.values()) == pytest.approx(1, abs=2e-4)
        assert row["answer"] == max(p, key=lambda answer: p[answer])


def test_the_model_from_disk_answers_as_the_one_in_memory_did(ran: Path) -> None:
    data = ran / "sites" / "server" / "data.yaml"
    saved = load_injected(ran / "run" / "injected", load_site_config(data))
    test = load_server_cases(data, saved.model.task_definitions)["sepsis"].test
    from consilia.methods.fedkim.section import injection_of
    from consilia.record.files import load_record

    told = injection_of(load_record(ran / "run" / "result.json")).test["injected"]["sepsis"].closed
    p = saved.model.probabilities(test)
    assert float((p.argmax(dim=1) == test.truth).double().mean()) == pytest.approx(told.accuracy)
    loss = -torch.log(p[torch.arange(len(test)), test.truth]).mean()
    assert float(loss) == pytest.approx(told.loss, abs=1e-6)


def test_a_free_question_is_also_answered_in_words(ran: Path) -> None:
    result = ask(ran, "--task", "reading", "--question", "Is 4 an even number?")
    assert result.exit_code == 0, result.output
    assert "text" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "fever"], "no task 'fever'; there are anaemia, death, reading, sepsis"),
        (["--task", "sepsis"], "task sepsis is about table: name the cases' file or folder"),
        (["--task", "reading"], "task reading has no question of its own: ask one with --question"),
        (["--task", "reading", "--question", "?", "--cases", "x.csv"], "task reading is text alone: leave x.csv out"),
        (["--task", "sepsis", "--cases", "x.csv", "--question", "?"], "leave --question out"),
        (["--task", "sepsis", "--cases", "x.csv", "--dataset", "reading"], "read by an encoder of kind table; dataset"),
        (["--task", "sepsis", "--cases", "x.csv", "--dataset", "fever"], "no dataset 'fever'"),
    ],
)
def test_what_does_not_fit_the_task_is_told(ran: Path, arguments: list[str], message: str) -> None:
    result = ask(ran, *arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_a_folder_without_a_model_is_told(ran: Path) -> None:
    site = ran / "sites" / "server" / "data.yaml"
    result = CliRunner().invoke(app, ["ask", str(ran), "--task", "sepsis", "--site", str(site)])
    assert result.exit_code == 1
    assert "card.json: no such file" in " ".join(result.output.split())


def test_the_page_of_examples_is_for_its_owner_alone(ran: Path) -> None:
    page = ran / "run" / "injected" / "answers.html"
    assert page.stat().st_mode & 0o077 == 0
    assert "Does this patient have sepsis?" in page.read_text()
    sites = list((ran / "sites").glob("north/state/runs/*/report-last.html"))
    assert len(sites) == 1
    assert "Is this patient anaemic?" in sites[0].read_text()
    assert sites[0].stat().st_mode & 0o077 == 0
