"""The command line as a person uses it, in-process engine."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from consilia.core.determinism import state_digest
from consilia.core.tensor_files import read_tensors
from consilia.data.loading import load_site
from consilia.federation.model_card import read_card
from consilia.methods import registry
from consilia.models.mlp import MLP
from consilia.record.files import load_record
from tests.cli.support import consilia
from tests.conftest import REPOSITORY

FAST = ["--engine", "inprocess", "--rounds", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    consilia("run", "fedkper", *FAST, "--out", out)
    return out


def test_no_text_of_a_list_of_commands_is_cut_off() -> None:
    """trials A 20: consilia site --help cut its texts."""
    for group in ([], ["site"]):
        _, _, rows = consilia(*group, "--help").partition("Commands:")
        assert "..." not in rows
    assert "its personal models, its state and its reports." in rows


def test_config_lists_keys_with_the_values_of_a_study(monkeypatch) -> None:
    text = consilia("config", "fedkper-kd-only", "--study", "wisconsin")
    assert re.search(r"training.learning_rate number > 0 0.01 0.02 of the first round", text)
    assert re.search(r"method.max_kd_weight number >= 0 10.0 lambda_max", text)
    assert re.search(r"rounds whole number >= 1 20 15 of federated training", text)
    monkeypatch.setenv(registry.PLUGIN, str(REPOSITORY / "examples" / "methods" / "qfedavg.py"))
    registry._plugins.cache_clear()
    try:
        assert re.search(r"method.q number >= 0 <= 5 1.0 0 is FedAvg", consilia("config", "qfedavg"))
    finally:
        monkeypatch.undo()
        registry._plugins.cache_clear()


@pytest.mark.parametrize(
    "command", [[], ["run"], ["compare"], ["config"], ["report"], ["export"], ["predict"], ["ask"], ["site", "check"]]
)
def test_help_teaches_by_example(command: list[str]) -> None:
    assert "consilia " + " ".join(command) in consilia(*command, "--help").replace("Usage: consilia", "", 1)


JOB = ("torch._dynamo", "scipy", "sklearn", "matplotlib", "tensorboard", "monai", "consilia.simulation")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("imported", "heavy"),
    [
        ("consilia", ("torch", "torchvision", "nvflare", "pydantic", "numpy")),
        ("consilia.cli.app", ("torch", "nvflare", "pandas", "scipy")),
        # Every job starts a process of these at the server and at each site.
        ("consilia.flare.controller, consilia.flare.executor, consilia.flare.persistor", JOB),
    ],
)
def test_what_starts_often_does_not_wait_for_what_it_may_never_use(imported: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {imported}; sys.exit(str(found) if (found := set({heavy}) & set(sys.modules)) else 0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_help_takes_less_than_half_a_second() -> None:
    # Processor time, of the best of three: the machine may be busy with something else.
    code = "import sys, time; from consilia.cli.app import entry; sys.argv = ['consilia', '--help']\n"
    code += "try: entry()\nexcept SystemExit: sys.stderr.write(str(time.process_time()))"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(3)]
    assert all("Usage: consilia" in run.stdout for run in runs)
    assert min(float(run.stderr) for run in runs) < 0.5


@pytest.mark.slow
def test_run_prints_metrics_and_where_the_report_is(tmp_path) -> None:
    text = consilia("run", "fedkper", *FAST, "--out", tmp_path / "run")
    record = load_record(tmp_path / "run" / "result.json")
    test = [metrics.test for metrics in record.final["last"].global_.values()]
    pooled = sum(part.correct for part in test) / sum(part.count for part in test)
    assert f"{100 * pooled:.1f}" in text
    assert str(tmp_path / "run" / "report.html") in text
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_finished_run_is_not_run_again_and_another_is_not_overwritten(finished) -> None:
    before = (finished / "result.json").stat().st_mtime_ns
    assert "holds this run's record already" in consilia("run", "fedkper", *FAST, "--out", finished)
    text = consilia("run", "fedkper", *FAST, "--seed", "5", "--out", finished, code=1)
    assert "is of another configuration" in text
    assert (finished / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_changed_data_are_noticed(tmp_path) -> None:
    consilia("run", "fedavg", *FAST, "--out", tmp_path / "run")
    sites = tmp_path / "my-sites"
    shutil.copytree(tmp_path / "run" / "sites", sites)
    for site in sites.glob("*/site.yaml"):
        site.write_text(site.read_text().replace(str(tmp_path / "run" / "sites"), str(sites)))
    arguments = ["run", "fedavg", *FAST, "--data", sites, "--out", tmp_path / "own"]
    consilia(*arguments)
    assert "holds this run's record already" in consilia(*arguments)
    (table,) = (sites / "hospital-1").glob("*.csv")
    header, first, *rest = table.read_text().splitlines()
    values = first.split(",")
    place = next(i for i, value in enumerate(values) if "." in value)
    values[place] = str(float(values[place]) + 100)
    table.write_text("\n".join([header, ",".join(values), *rest]) + "\n")
    assert "the data of site 'hospital-1' have changed since" in consilia(*arguments, code=1)


@pytest.mark.slow
def test_overwrite_touches_runs_only(finished, tmp_path) -> None:
    precious = tmp_path / "precious"
    (precious / "thesis").mkdir(parents=True)
    assert "nothing is deleted" in consilia("run", "fedkper", *FAST, "--out", precious, "--overwrite", code=1)
    consilia("run", "fedkper", "--engine", "nonsense", "--out", finished, "--overwrite", code=1)
    assert (finished / "result.json").is_file()
    consilia("run", "fedavg", *FAST, "--out", tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    consilia("run", "fedavg", *FAST, "--seed", 9, "--out", tmp_path / "run", "--overwrite")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert load_record(tmp_path / "run" / "result.json").run.seed == 9


@pytest.mark.parametrize("command", ["run", "export"])
def test_a_baseline_is_no_method(tmp_path, command) -> None:
    assert "consilia compare --only majority" in consilia(command, "majority", "--out", tmp_path, code=1)


@pytest.mark.slow
def test_only_runs_what_was_asked_for_with_a_line_a_round(tmp_path) -> None:
    """trials A 19: FedAvg was added unasked; 20: nothing was printed between "running" and "done"."""
    text = consilia("compare", "wisconsin", *FAST, *["--only", "fedkper"] * 2, "--out", tmp_path / "study")
    folders = [path.name for path in (tmp_path / "study").iterdir() if path.is_dir()]
    assert sorted(folders) == ["fedkper-seed0", "sites"]
    assert text.count("--only fedavg runs it") == 1
    number = r"\d+(\.\d+)?"
    line = rf"fedkper-seed0: round {{}} of 2: 4 of 4 updates, validation (\w+ )*{number}, {number} s, left 0:00:\d\d"
    assert all(len(re.findall(line.format(place), text)) == 1 for place in (1, 2))
    assert "fedkper-seed0: finished after 2 rounds" in text


@pytest.mark.slow
def test_settings_reach_the_run(tmp_path) -> None:
    settings = ["--set", "method.max_kd_weight=2.5", "--set", "training.batch_size=64"]
    consilia("run", "fedkper", *FAST, *settings, "--seed", 3, "--out", tmp_path / "run")
    config = load_record(tmp_path / "run" / "result.json").config
    assert (config["method"]["max_kd_weight"], config["training"]["batch_size"], config["seed"]) == (2.5, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "xyz"], "no method 'xyz' here; expected one of "),
        (["run", "fedkper", "--engine", "cloud"], "no engine 'cloud'; expected one of inprocess, sim"),
        (["run", "fedkper", "--set", "rounds=-1"], "rounds: Input should be greater than or equal to 1; got -1"),
        (["run", "fedkper", "--data", "nowhere.yaml"], "nowhere.yaml"),
        (
            ["compare", "nothing"],
            "no study file nothing, and no embedded study of that name; expected one of fedgpl-classification, ",
        ),
        (["compare", "--seeds", "a"], "--seeds takes whole numbers"),
        (["report", "empty"], "no result.json at or below empty"),
        (["predict", "no.safetensors", "--site", "s", "--cases", "c"], "no model file at no.safetensors"),
    ],
)
def test_mistakes_get_a_message_and_no_traceback(tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    text = consilia(*arguments, code=1)
    assert message in text
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["compare", "--only", "fedavgg"], "fedavg"),
        (["compare", "--only", "fedavg", "--only", "majorty"], "majority"),
        (["compare", "wisconson"], "wisconsin"),
        (["compare", "--leave-out", "hospital-2", "--leave-out", "hospitl-3"], "hospital-3"),
        (["compare", "--set", "trainig.batch_size=3"], "training.batch_size"),
        (["run", "fedkpr"], "fedkper"),
        (["run", "fedkper", "--data", "phantom-skn"], "phantom-skin"),
        (["run", "fedkper", "--set", "max_kd_weigt=3"], "method.max_kd_weight"),
        (["config", "fedkpr"], "fedkper"),
        (["export", "fedproxx"], "fedprox"),
        (["report", "hart"], "heart"),
    ],
)
def test_an_unknown_name_is_refused_before_anything_is_made(tmp_path, monkeypatch, arguments, meant) -> None:
    """trials A 1 and 11: a typo in --only trained for minutes, and a refused run left folders."""
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "report":
        (tmp_path / "heart").mkdir()
    assert f"did you mean '{meant}'?" in consilia(*arguments, code=1)
    assert [path.name for path in tmp_path.rglob("*")] == (["heart"] if arguments[0] == "report" else [])


def test_a_report_is_a_page(tmp_path, finished) -> None:
    """trials A 11: a page was written into a csv."""
    text = consilia("report", finished, "--out", tmp_path / "x.csv", code=1)
    assert "a report is a page, expected a name that ends in .html" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_refused_overwrite_brings_the_earlier_run_back(tmp_path) -> None:
    consilia("run", "fedavg", *FAST, "--out", tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    consilia("run", "fedavg", *FAST, "--set", "min_sites=-1", "--out", tmp_path / "run", "--overwrite", code=1)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_each_site_is_left_out_in_turn(tmp_path) -> None:
    """trials A 2: repeated --leave-out kept the last one; 4: the site that was left out was named nowhere."""
    arguments = ["compare", "wisconsin", *FAST, "--only", "majority", "--out"]
    text = consilia(*arguments, tmp_path / "two", "--leave-out", "hospital-3", "--leave-out", "hospital-1")
    places = [tmp_path / "two" / f"without-{site}" / "majority-seed0" for site in ("hospital-3", "hospital-1")]
    records = [load_record(place / "result.json") for place in places]
    assert [record.config["test_only_sites"] for record in records] == [["hospital-3"], ["hospital-1"]]
    tested = [record.final["last"].global_[record.config["test_only_sites"][0]].test for record in records]
    first, second = (100 * part.correct / part.count for part in tested)
    assert "every site left out in turn, global model after the last round" in text
    tables = (tmp_path / "two" / "tables.md").read_text()
    for site, value in (("hospital-3", first), ("hospital-1", second)):
        assert re.search(rf"\| {re.escape(site)} \(.*?\| majority \| 0\.500 .*?\| {value:.1f} % \[", tables)
    assert re.search(rf"\| mean of the sites \| majority \|.*?\| {(first + second) / 2:.1f} % \[", tables)
    assert "majority-seed0 without hospital-1: running" in text
    # The same runs as with one site left out.
    one = consilia(*arguments, tmp_path / "one", "--leave-out", "hospital-1")
    assert load_record(tmp_path / "one" / "majority-seed0" / "result.json").run.id == records[1].run.id
    assert "Last round, tested on hospital-1, which trained nothing" in one
    apart = consilia("report", tmp_path / "two", "--out", tmp_path / "r.html")
    assert f"mean {(first + second) / 2:.1f}" in apart
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines] == ["left_out", "hospital-1", "hospital-3", "mean"]
    consilia("run", "fedavg", *FAST, "--rounds", 1, "--out", tmp_path / "two" / "whole")
    mixed = consilia("report", tmp_path / "two", "--out", tmp_path / "r.html", code=1)
    assert "tested on different sites, their own and hospital-1 and hospital-3: name runs of one of them" in mixed
    assert not (tmp_path / "r.html").exists()
    assert "no balance: global and personal accuracy are of different sites" in one


@pytest.mark.slow
def test_compare_keeps_records_and_takes_baselines(tmp_path) -> None:
    arguments = ["compare", "wisconsin", *FAST, "--out", tmp_path / "study"]
    arguments += ["--only", "fedavg", "--only", "fedkper", "--only", "centralised", "--only", "local-only"]
    text = consilia(*arguments, "--only", "majority", "--seeds", "0,1")
    assert "fedavg-seed1: running" in text
    again = consilia(*arguments, "--only", "majority", "--seeds", "0,1")
    assert again.count("record found, not run again") == 10
    assert (tmp_path / "study" / "report.html").is_file()
    # The majority's accuracy by hand, from the labels that the sites' splits hold.
    majority = load_record(tmp_path / "study" / "majority-seed0" / "result.json")
    sites = [load_site(path, "diagnosis") for path in sorted((tmp_path / "study" / "sites").glob("*/site.yaml"))]
    commonest = int(torch.cat([site.train.labels for site in sites]).mode().values)
    for site in sites:
        expected = int((site.test.labels == commonest).sum())
        assert majority.final["last"].global_[site.site].test.correct == expected


@pytest.mark.slow
def test_centralised_is_plain_training_on_the_union(tmp_path) -> None:
    consilia("compare", "wisconsin", *FAST, "--only", "centralised", "--out", tmp_path / "study")
    record = load_record(tmp_path / "study" / "centralised-seed0" / "result.json")
    assert record.sites["hospital-1"].train > 0
    assert record.final["last"].personal == {}
    assert {item.version for item in record.evaluations} == {1, 2}


def test_report_from_records_alone(finished, tmp_path) -> None:
    (tmp_path / "moved.json").write_text((finished / "result.json").read_text())
    consilia("report", tmp_path / "moved.json", "--out", tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == (finished / "report.html").read_text()


def test_a_report_of_a_folder_is_of_its_runs_alone(finished, tmp_path) -> None:
    """Neither of the simulator's own copy of a record nor of the runs by which a study was tuned."""
    record = (finished / "result.json").read_text()
    for place in ("run", "run/simulator/server/simulate_job/app_server/run", "tuning/fedavg/learning_rate=1/seed0"):
        (tmp_path / "study" / place).mkdir(parents=True)
        (tmp_path / "study" / place / "result.json").write_text(record)
    text = consilia("report", tmp_path / "study", "--out", tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == (finished / "report.html").read_text()
    assert text == consilia("report", tmp_path / "study" / "run", "--out", tmp_path / "r.html")
    # Named itself it is what is wanted.
    consilia("report", tmp_path / "study" / "tuning", "--out", tmp_path / "t.html")
    assert (tmp_path / "t.html").read_text() == (finished / "report.html").read_text()


def test_export_writes_a_job_without_code(tmp_path) -> None:
    consilia("export", "fedprox", "--out", tmp_path, "--name", "mine", "--set", "method.mu=0.7")
    (client,) = tmp_path.glob("mine/app/config/config_fed_client.json")
    config = json.loads(client.read_text())["executors"][0]["executor"]["args"]["config"]
    assert config["method"] == {"method": "fedprox", "mu": 0.7}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    (tmp_path / "docs").mkdir()
    assert "is no job folder" in consilia("export", "fedprox", "--out", tmp_path, "--name", "docs", code=1)


def test_site_check_says_ready_or_why_not(finished) -> None:
    site = finished / "sites" / "hospital-1" / "site.yaml"
    assert "ready" in consilia("site", "check", site)
    broken = site.with_name("broken.yaml")
    broken.write_text(site.read_text().replace(".csv", ".missing"))
    assert "not ready" in consilia("site", "check", broken, code=1)


@pytest.mark.parametrize("kind", ["global-last", "personal-last"])
def test_predict_on_new_cases(finished, tmp_path, kind) -> None:
    home = finished / "sites" / "hospital-1"
    model = finished / "global-last.safetensors"
    if kind == "personal-last":
        (model,) = (home / "state" / "runs").glob("*/personal-last.safetensors")
    (table,) = home.glob("*.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    new = tmp_path / "new.csv"
    columns = [name for name in rows[0] if name != "label" and name != "diagnosis"]
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[:9])
    consilia("predict", model, "--site", home / "site.yaml", "--cases", new, "--out", tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open() as file:
        answers = list(csv.DictReader(file))
    # The same cases through the model by hand, from the inputs that training saw.
    data = load_site(home / "site.yaml", "diagnosis")
    inputs = torch.cat([data.train.inputs, data.validation.inputs, data.test.inputs])
    ids = [*data.train.case_ids, *data.validation.case_ids, *data.test.case_ids]
    net = MLP(30, 2)
    net.load_state_dict(load_file(model))
    expected = dict(zip(ids, net(inputs).double().softmax(1)[:, 1].tolist(), strict=True))
    assert len(answers) == 9
    chosen = read_card(read_tensors(model)[1], model).threshold
    threshold = 0.5 if chosen is None else chosen
    for answer in answers:
        assert float(answer[f"p_{data.class_names[1]}"]) == pytest.approx(expected[answer["case"]], abs=1e-5)
        assert answer["answer"] == data.class_names[int(expected[answer["case"]] >= threshold)]


@pytest.mark.slow
def test_a_personal_model_keeps_its_own_preprocessing(tmp_path) -> None:
    out = tmp_path / "run"
    consilia("run", "fedavg", *FAST, "--out", out)
    home = out / "sites" / "hospital-1"
    (model,) = (home / "state" / "runs").glob("*/personal-last.safetensors")
    (table,) = home.glob("*.csv")
    arguments = ["predict", model, "--site", home / "site.yaml", "--cases", table]
    consilia(*arguments, "--out", tmp_path / "before.csv")
    fitted = home / "state" / "diagnosis" / "preprocessing.json"
    fitted.write_text(fitted.read_text().replace("1", "2"))
    consilia(*arguments, "--out", tmp_path / "after.csv")
    assert (tmp_path / "after.csv").read_text() == (tmp_path / "before.csv").read_text()
    assert "exists: choose another" in consilia(*arguments, "--out", tmp_path / "after.csv", code=1)


def test_predict_refuses_what_does_not_fit(finished, tmp_path) -> None:
    site = finished / "sites" / "hospital-1" / "site.yaml"
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(1)}, foreign)
    assert "was not saved by Consilia" in consilia("predict", foreign, "--site", site, "--cases", "x", code=1)
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    text = consilia("predict", tmp_path / "x.safetensors", "--site", site, "--cases", "x", code=1)
    assert "is no safetensors file" in text


def test_both_global_models_are_kept(finished) -> None:
    record = load_record(finished / "result.json")
    for name in ("last", "best"):
        assert state_digest(load_file(finished / f"global-{name}.safetensors")) == record.final[name].sha256


OWN = 'from consilia.methods import Method\n\n\nclass Own(Method):\n    name = "{name}"\n'


def test_a_plugin_of_a_baselines_name_and_a_second_plugin_are_refused(tmp_path) -> None:
    for name in ("majority", "own"):
        (tmp_path / f"{name}.py").write_text(OWN.format(name=name))
    first, second = (("--plugin", tmp_path / f"{name}.py") for name in ("majority", "own"))
    try:
        assert "majority is the name of a baseline" in consilia("methods", *first, code=1)
        assert "--plugin is given 2 times" in consilia("methods", *first, *second, code=1)
        assert "no method 'other' here" in consilia("run", "other", *second, "--out", tmp_path / "run", code=1)
    finally:
        os.environ.pop(registry.PLUGIN, None)
        registry._plugins.cache_clear()
    assert "A method of your own: --plugin FILE.py" in consilia("run", "own", "--out", tmp_path / "run", code=1)
