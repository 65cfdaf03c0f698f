"""FLamby's Fed-TCGA-BRCA on made-up files of its shape: the shipped study takes the steps of a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from benchmarks.flamby_brca import INPUTS, REGIONS, main, prepare
from consilia.core.determinism import derive_seed
from consilia.data.loading import load_site
from consilia.federation.saved_model import load_model
from consilia.simulation.federation import load_federation
from consilia.study.baselines import run_baseline
from consilia.study.study import load_study, study_config
from tests.conftest import REPOSITORY
from tests.federation.support import Federation
from tests.study.plain_strategies import plain_batches, plain_rounds

STUDY = str(REPOSITORY / "configs" / "studies" / "flamby-tcga-brca.yaml")
COUNTS = {
    "northeast": (33, 9),
    "south": (24, 6),
    "west": (17, 5),
    "midwest": (16, 4),
    "europe": (17, 4),
    "canada": (9, 3),
}
"""Training and test cases; a last batch of one in four regions, as in two of FLamby's."""

SEED, ROUNDS, STEPS = 44, 2, 100


@pytest.fixture(scope="module")
def flamby(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLamby's two files with made-up patients, in an order that mixes regions; a fifth have the event."""
    folder = tmp_path_factory.mktemp("fed_tcga_brca")
    random = np.random.default_rng(5)
    folds = [
        f"{part}_{n}"
        for n, r in enumerate(REGIONS)
        for part, c in zip(("train", "test"), COUNTS[r], strict=True)
        for _ in range(c)
    ]
    count = len(folds)
    order = random.permutation(count)
    pids = np.array([f"TCGA-{number:04d}" for number in range(count)])
    table = pd.DataFrame({"pid": pids, **{f"feature {n}": random.normal(size=count) for n in range(39)}})
    table["E"] = (random.random(count) < 0.2).astype(float)
    # Days without ties, so that FLamby's loss, which does not know of them, is Breslow's.
    table["T"] = random.permutation(np.arange(count)).astype(float)
    table.loc[table["T"] == 0, "E"] = 0.0  # a case is censored on its first day, as in the real file
    table.iloc[order].to_csv(folder / "brca.csv", index=False)
    (folder / "dataset_creation_scripts").mkdir()
    splits = pd.DataFrame({"pid": pids, "fold": [fold.split("_")[0] for fold in folds], "fold2": folds})
    splits.to_csv(folder / "dataset_creation_scripts" / "train_test_split.csv", index=False)
    return folder


@pytest.fixture
def sites(flamby: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Each region's site.yaml of the shipped federation."""
    monkeypatch.setenv("CONSILIA_DATA", str(tmp_path))
    assert prepare(flamby, tmp_path / "tcga_brca") == COUNTS
    return load_federation(str(load_study(STUDY).data), tmp_path / "sites")


def region(folder: Path, number: int, part: str = "train") -> tuple[Tensor, Tensor]:
    """Inputs (n, 39) and (E, T) (n, 2) of a region's part, read as FLamby describes it: by position and fold2."""
    table = pd.read_csv(folder / "brca.csv")
    splits = pd.read_csv(folder / "dataset_creation_scripts" / "train_test_split.csv")
    chosen = table[table["pid"].isin(splits.loc[splits["fold2"] == f"{part}_{number}", "pid"])]
    return torch.tensor(chosen.iloc[:, 1:40].to_numpy(dtype=float)), torch.tensor(
        chosen.iloc[:, 40:].to_numpy(dtype=float)
    )


def cox_gradient(weights: Tensor, inputs: Tensor, truth: Tensor) -> Tensor:
    """Of FLamby's loss of one batch: from the longest time down, minus each event's log share of those before it."""
    weights = weights.clone().requires_grad_()
    order = sorted(range(len(truth)), key=lambda i: -float(truth[i, 1]))
    scores = inputs[order] @ weights[:39] + weights[39]
    losses = [truth[i, 0] * (scores[: k + 1].exp().sum().log() - scores[k]) for k, i in enumerate(order)]
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), weights)
    return gradient


def start() -> Tensor:
    torch.manual_seed(SEED)
    layer = nn.Linear(39, 1)
    return torch.cat([layer.weight.detach().flatten(), layer.bias.detach()]).double()


def loop(folder: Path, label: str) -> Tensor:
    """Weights and bias (40,) after ROUNDS rounds of the strategy called ``label``."""
    data = {name: region(folder, number) for number, name in enumerate(REGIONS)}
    order = {name: plain_batches(SEED, name, len(truth), 8) for name, (_, truth) in data.items()}
    return plain_rounds(
        label,
        start(),
        data,
        order,
        cox_gradient,
        rounds=ROUNDS,
        steps=STEPS,
        rate=0.1 if label in ("fedavg", "fedprox") else 0.01,
        server_rate=1.0 if label == "fedadagrad" else 0.1,
        mu=0.1,
    )


def weights_of(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([state["layers.0.weight"].flatten(), state["layers.0.bias"]]).double()


@pytest.mark.parametrize("label", ["fedavg", "fedprox", "scaffold", "fedadam", "fedyogi", "fedadagrad"])
def test_the_first_rounds_are_those_of_a_plain_loop(
    label: str, flamby: Path, sites: dict[str, Path], tmp_path: Path
) -> None:
    settings = [f"rounds={ROUNDS}", "evaluate_every=0", "training.device=cpu"]
    config = study_config(load_study(STUDY), label, SEED, sites, settings)
    federation = Federation(config, sites, tmp_path / "run")
    federation.rounds()
    # The bias has no gradient, but 1e-8 in the denominator makes a step of a rounding error: the weights alone count.
    ours, plain = weights_of(federation.coordinator.state)[:39], loop(flamby, label)[:39]
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)


def test_the_pooled_model_is_adam_on_all_regions(flamby: Path, sites: dict[str, Path], tmp_path: Path) -> None:
    config = study_config(load_study(STUDY), "pooled", SEED, sites, ["training.local_epochs=2", "training.device=cpu"])
    run_baseline("centralised", config, sites, tmp_path / "run")
    parts = [region(flamby, REGIONS.index(name)) for name in sorted(REGIONS)]
    inputs, truth = (torch.cat(columns) for columns in zip(*parts, strict=True))
    weights = start().requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=0.1)
    order = torch.Generator().manual_seed(derive_seed(SEED, "batches", "pooled", 1))
    for _ in range(2):
        for batch in torch.randperm(len(truth), generator=order).split(8):
            weights.grad = cox_gradient(weights.detach(), inputs[batch], truth[batch])
            optimiser.step()
    state = load_model(tmp_path / "run" / "global-last.safetensors", sites["canada"]).network.state_dict()
    torch.testing.assert_close(weights_of(state)[:39], weights.detach()[:39], rtol=0, atol=1e-4)


def test_inputs_times_and_parts_are_those_of_the_files(flamby: Path, sites: dict[str, Path]) -> None:
    for number, name in enumerate(REGIONS):
        data = load_site(sites[name], "survival")
        for part in ("train", "test"):
            inputs, truth = region(flamby, number, part)
            assert torch.allclose(data.split(part).inputs, inputs.float(), atol=1e-6)
            assert data.split(part).labels.tolist() == truth[:, [1, 0]].tolist()
    whole = torch.cat([region(flamby, number, part)[1] for number in range(6) for part in ("train", "test")])
    assert [0.0, 0.0] in whole.tolist()


def test_files_that_are_not_flambys_are_refused(
    flamby: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(flamby), str(tmp_path / "out")])
    assert "northeast: 33 training cases, 9 test cases" in capsys.readouterr().out
    assert list(pd.read_csv(tmp_path / "out" / "canada.csv")) == ["pid", *INPUTS, "event", "time"]
    (tmp_path / "dataset_creation_scripts").mkdir()
    splits = pd.read_csv(flamby / "dataset_creation_scripts" / "train_test_split.csv")
    splits.iloc[2:].to_csv(tmp_path / "dataset_creation_scripts" / "train_test_split.csv", index=False)
    table = pd.read_csv(flamby / "brca.csv")
    table.to_csv(tmp_path / "brca.csv", index=False)
    with pytest.raises(SystemExit, match=r"2 patient\(s\) of brca\.csv are in no fold2"):
        prepare(tmp_path, tmp_path / "out")
    table.iloc[:, 1:].to_csv(tmp_path / "brca.csv", index=False)
    with pytest.raises(SystemExit, match="expected pid, 39 inputs, event and time"):
        prepare(tmp_path, tmp_path / "out")
