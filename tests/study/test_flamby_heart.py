"""FLamby's Fed-Heart-Disease: the shipped study takes the steps of a plain loop written from the protocol's text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from benchmarks.flamby_heart import PUBLISHED, SITES, main, pooled_as_flamby, together
from consilia.data.loading import load_site
from consilia.record.files import save_record
from consilia.simulation.federation import load_federation
from consilia.study.baselines import run_baseline
from consilia.study.study import load_study, study_config
from tests.conftest import REPOSITORY
from tests.federation.support import Federation
from tests.study.plain_strategies import plain_batches, plain_rounds

STUDY = str(REPOSITORY / "configs" / "studies" / "flamby-heart.yaml")
FILES = {"cleveland": "cleveland", "budapest": "hungarian", "switzerland": "switzerland", "long-beach-va": "va"}
CASES = {"cleveland": 62, "budapest": 44, "switzerland": 9, "long-beach-va": 25}
"""Of made-up tables; 40, 29, 5 and 16 train, so that two hospitals have a last batch of one, as Long Beach has."""

SEED, ROUNDS, STEPS = 43, 2, 100


def made_up(folder: Path) -> None:
    """Tables like those of the UCI: 14 columns, marks for what is missing, some incomplete rows."""
    random = np.random.default_rng(0)
    for name, count in CASES.items():
        risk = random.normal(size=count)
        columns = [
            random.integers(30, 80, count),
            random.integers(0, 2, count),
            1 + np.arange(count) % 4,
            *random.integers(80, 300, (2, count)),
            random.integers(0, 2, count),
            np.arange(count) % 3,
            np.round(150 + 20 * risk),
            random.integers(0, 2, count),
            np.round(risk + random.normal(size=count), 1),
            *np.full((3, count), "?", dtype=object),
            (risk + random.normal(size=count) > 0) * random.integers(1, 5, count),
        ]
        frame = pd.DataFrame(np.array(columns, dtype=object).T)
        incomplete = frame.head(3).copy()
        incomplete[3] = "?"
        pd.concat([incomplete, frame]).to_csv(folder / f"processed.{FILES[name]}.data", header=False, index=False)


@pytest.fixture(params=["made up", "real"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of data: with made-up tables, or with the UCI's."""
    if request.param == "made up":
        found = tmp_path / "data"
        (found / "heart_disease_uci").mkdir(parents=True)
        made_up(found / "heart_disease_uci")
    else:
        found = request.getfixturevalue("data_root")
        if not (found / "heart_disease_uci").is_dir():
            pytest.skip(f"the UCI heart disease files are not below {found}")
    monkeypatch.setenv("CONSILIA_DATA", str(found))
    return found


def hospital(root: Path, name: str, own: bool = True) -> tuple[Tensor, Tensor]:
    """Training inputs (n, 13) and labels (n,) of a hospital, by the protocol's text; standardised if ``own``."""
    rows = pd.read_csv(root / "heart_disease_uci" / f"processed.{FILES[name]}.data", header=None, na_values="?")
    rows = rows.drop(columns=[10, 11, 12]).dropna().reset_index(drop=True)
    labels = (rows[13] > 0).astype(int)
    levels = rows.drop(columns=[13]).astype({2: pd.CategoricalDtype([1, 2, 3, 4]), 6: pd.CategoricalDtype([0, 1, 2])})
    inputs = pd.get_dummies(levels, columns=[2, 6], drop_first=True).astype(float)
    rare = np.bincount(labels, minlength=2).min() <= 2
    train, _ = train_test_split(
        np.arange(len(rows)),
        train_size=0.66,
        test_size=0.34,
        random_state=43,
        shuffle=True,
        stratify=None if rare else labels,
    )
    chosen = inputs.iloc[sorted(train)]
    if own:
        chosen = (chosen - chosen.mean()) / (chosen.std(ddof=1) + 1e-9)
    return torch.tensor(chosen.to_numpy(), dtype=torch.float32), torch.tensor(labels[sorted(train)].to_numpy())


def gradient(weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Of the mean cross-entropy of a batch; the bias is the last of the weights (14,)."""
    features = torch.cat([inputs.double(), torch.ones(len(inputs), 1).double()], dim=1)
    return features.T @ ((features @ weights).sigmoid() - labels) / len(labels)


def loop(root: Path, label: str) -> Tensor:
    """Weights and bias (14,) after ROUNDS rounds of the strategy called ``label``."""
    data = {name: hospital(root, name) for name in sorted(FILES)}
    order = {name: plain_batches(SEED, name, len(labels), 4) for name, (_, labels) in data.items()}
    torch.manual_seed(SEED)
    first = nn.Linear(13, 1)
    return plain_rounds(
        label,
        torch.cat([first.weight.detach().flatten(), first.bias.detach()]).double(),
        data,
        order,
        gradient,
        rounds=ROUNDS,
        steps=STEPS,
        rate={"fedadam": 0.01, "fedyogi": 0.003162, "fedadagrad": 0.003162}.get(label, 0.001),
        server_rate=0.316228 if label == "fedadagrad" else 0.01,
        mu=0.01,
    )


@pytest.mark.parametrize("label", ["fedavg", "fedprox", "scaffold", "fedadam", "fedyogi", "fedadagrad"])
def test_the_first_rounds_are_those_of_a_plain_loop(label: str, root: Path, tmp_path: Path) -> None:
    study = load_study(STUDY)
    assert study.run["rounds"] == 15
    assert study.seeds == (42, 43, 44, 45, 46)
    sites = load_federation(str(study.data), tmp_path / "sites")
    settings = [f"rounds={ROUNDS}", "evaluate_every=0", "training.device=cpu"]
    federation = Federation(study_config(study, label, SEED, sites, settings), sites, tmp_path / "run")
    federation.rounds()
    state = federation.coordinator.state
    ours = torch.cat([state["layer.weight"].flatten(), state["layer.bias"]]).double()
    torch.testing.assert_close(ours, loop(root, label), rtol=0, atol=1e-5)


def test_the_table_has_means_of_sites_and_seeds_beside_the_published(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study(STUDY)
    sites = load_federation(str(study.data), tmp_path / "sites")
    for label, baseline in (("majority", "majority"), ("fedavg", "majority")):
        for seed in (42, 43):
            record = run_baseline(baseline, study_config(study, label, seed, sites), sites)
            save_record(record, tmp_path / f"{label}-seed{seed}" / "result.json")
    main([str(tmp_path)])
    first, second = capsys.readouterr().out.splitlines()[2:]
    data = {name: load_site(path, "diagnosis") for name, path in sites.items()}
    common = torch.cat([site.train.labels for site in data.values()]).bincount().argmax()
    own = {
        name: 100 * float((data[name].test.labels == data[name].train.labels.mode()[0]).float().mean())
        for name in SITES
    }
    shared = {name: 100 * float((data[name].test.labels == common).float().mean()) for name in SITES}
    assert second.startswith(f"| majority (2) | {np.mean(list(own.values())):.1f} ± 0.0 | {shown(own)} | ")
    apart = [shared[name] - published for name, published in zip(SITES, PUBLISHED["fedavg"], strict=True)]
    assert first.startswith(f"| fedavg (2) | {np.mean(list(shared.values())):.1f} ± 0.0 | {shown(shared)} | 68.5 | ")
    assert first.endswith(f" | {np.mean(apart):+.1f} | {np.abs(apart).max():.1f} |")


def shown(values: dict[str, float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values.values())


def test_flambys_pooled_model_is_trained_on_inputs_standardised_together(root: Path, tmp_path: Path) -> None:
    paths = load_federation(str(load_study(STUDY).data), tmp_path / "sites")
    sites = [load_site(paths[name], "diagnosis") for name in SITES]
    raw = torch.cat([hospital(root, name, own=False)[0] for name in SITES]).double()
    mean, deviation = raw.mean(0), raw.std(0)
    trained = torch.cat(together(sites, "train"))
    torch.testing.assert_close(trained, ((raw - mean) / deviation).float(), rtol=0, atol=1e-4)
    torch.manual_seed(42)
    start = nn.Linear(13, 1)
    own, alike = pooled_as_flamby(tmp_path, seeds=(42,), epochs=0)
    for found, tests in ((own, [site.test.inputs for site in sites]), (alike, together(sites, "test"))):
        said = [(start(test)[:, 0] > 0).long() for test in tests]
        shares = [100 * float((say == site.test.labels).float().mean()) for say, site in zip(said, sites, strict=True)]
        assert found.tolist() == [pytest.approx(shares)]
    assert (pooled_as_flamby(tmp_path, seeds=(42,), epochs=20)[1] != alike).any()
