"""Our accuracies on Fed-Heart-Disease beside FLamby's, from the runs of configs/studies/flamby-heart.yaml.

    consilia compare configs/studies/flamby-heart.yaml --out runs/flamby-heart
    python -m benchmarks.flamby_heart runs/flamby-heart

Accuracy at 0.5, times 100, of the last round: each hospital's test, and their plain mean, with its standard deviation
over the seeds. The published figures are means over seeds 42 to 46 of the files heart_seed42.csv to heart_seed46.csv
in FLamby's repository (MIT), flamby/results/results_benchmark_fed_heart_disease.

``--pooled`` also trains FLamby's pooled model, which no setting of a study describes: it is trained on inputs that are
standardised over all hospitals together, and tested on those that are standardised by each hospital.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from consilia.data.dataset import SiteData
from consilia.data.loading import load_site
from consilia.data.site import load_site_config
from consilia.record.files import load_record
from consilia.record.split_metrics import Metrics

SITES = ("cleveland", "budapest", "switzerland", "long-beach-va")
SEEDS = (42, 43, 44, 45, 46)
PUBLISHED = {
    "fedavg": (73.08, 71.91, 65.00, 64.00),
    "fedprox": (73.08, 71.91, 65.00, 64.00),
    "scaffold": (72.69, 71.91, 65.00, 64.00),
    "fedadam": (75.19, 74.61, 73.75, 66.67),
    "fedyogi": (75.96, 75.28, 73.75, 67.56),
    "fedadagrad": (75.96, 75.28, 73.75, 67.56),
    "local": (74.62, 74.61, 72.50, 70.22),
    "pooled": (78.27, 76.40, 75.00, 64.44),
}
"""By label of the study, of :data:`SITES`."""

OWN = ("local", "majority")
AS_FLAMBY = ("pooled, as FLamby", "pooled, tested alike")
"""FLamby's pooled model on the hospitals' own test inputs, and on test inputs standardised as its training's."""

Array = NDArray[np.float64]


def accuracies(folder: Path, label: str) -> Array:
    """Percent (seeds, sites) of a label's runs: of the global model, or with :data:`OWN` of each site's own."""
    found = []
    for path in sorted(folder.glob(f"{label}-seed*/result.json")):
        final = load_record(path).final["last"]
        by_site = final.personal if label in OWN else final.global_
        tests = [by_site[site].test for site in SITES]
        found.append([100 * test.accuracy for test in tests if isinstance(test, Metrics)])
    return np.array(found)


def labels_of(folder: Path) -> list[str]:
    """The labels that have runs; those with published figures first, in their order."""
    there = {path.parent.name.rpartition("-seed")[0] for path in folder.glob("*-seed*/result.json")}
    return [label for label in PUBLISHED if label in there] + sorted(there - set(PUBLISHED))


def row(label: str, ours: Array, published: Sequence[float] | None) -> str:
    """A line of the table; the largest difference of a site is shown without its sign."""
    mean, spread = ours.mean(), ours.mean(axis=1).std(ddof=1) if len(ours) > 1 else 0.0
    cells = [f"{label} ({len(ours)})", f"{mean:.1f} ± {spread:.1f}", _sites(ours.mean(axis=0))]
    if published is None:
        cells += ["", "", "", ""]
    else:
        apart = ours.mean(axis=0) - np.array(published)
        cells += [
            f"{np.mean(published):.1f}",
            _sites(published),
            f"{round(apart.mean(), 1) + 0.0:+.1f}",
            f"{np.abs(apart).max():.1f}",
        ]
    return f"| {' | '.join(cells)} |"


def _sites(values: Sequence[float] | Array) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def pooled_as_flamby(folder: Path, seeds: Sequence[int] = SEEDS, epochs: int = 50) -> tuple[Array, Array]:
    """Percent (seeds, sites) for each of :data:`AS_FLAMBY`, by a plain loop: Adam 0.001, batches of 4."""
    paths = [folder / "sites" / name / "site.yaml" for name in SITES]
    sites = [load_site(path, next(iter(load_site_config(path).datasets))) for path in paths]
    labels = torch.cat([site.train.labels for site in sites])
    inputs = torch.cat(together(sites, "train"))
    found: list[list[list[float]]] = [[], []]
    for seed in seeds:
        model = _trained(inputs, labels, seed, epochs)
        for rows, tests in zip(found, ([site.test.inputs for site in sites], together(sites, "test")), strict=True):
            with torch.no_grad():
                right = [(model(test)[:, 0] > 0) == site.test.labels for test, site in zip(tests, sites, strict=True)]
            rows.append([100 * float(answers.float().mean()) for answers in right])
    return np.array(found[0]), np.array(found[1])


def together(sites: Sequence[SiteData], name: str) -> list[Tensor]:
    """Each hospital's inputs of a split, standardised by the training cases of all hospitals."""
    train = torch.cat([_raw(site, "train") for site in sites])
    mean, deviation = train.mean(0), train.std(0) + 1e-9
    return [((_raw(site, name) - mean) / deviation).float() for site in sites]


def _raw(site: SiteData, name: str) -> Tensor:
    """The inputs of a split before they were standardised, float64."""
    made = site.dataset().preprocessing
    assert made is not None  # every site that is read from a file has one
    mean, scale = (torch.tensor(made.fitted[key], dtype=torch.float64) for key in ("mean", "scale"))
    return site.split(name).inputs.double() * scale + mean


def _trained(inputs: Tensor, labels: Tensor, seed: int, epochs: int) -> nn.Linear:
    torch.manual_seed(seed)
    model = nn.Linear(inputs.shape[1], 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(4):
            optimiser.zero_grad()
            odds = model(inputs[batch])[:, 0]
            functional.binary_cross_entropy_with_logits(odds, labels[batch].float()).backward()
            optimiser.step()
    return model


def table(folder: Path, pooled: bool = False) -> list[str]:
    """The Markdown table of a study's folder."""
    labels = labels_of(folder)
    if not labels:
        raise SystemExit(f"{folder}: no LABEL-seedN/result.json: run configs/studies/flamby-heart.yaml first")
    lines = [
        f"| method (seeds) | ours | {', '.join(SITES)} | FLamby | its hospitals | difference | largest of a hospital |",
        "|---|---|---|---|---|---|---|",
        *(row(label, accuracies(folder, label), PUBLISHED.get(label)) for label in labels),
    ]
    if pooled:
        own, alike = pooled_as_flamby(folder)
        lines += [row(AS_FLAMBY[0], own, PUBLISHED["pooled"]), row(AS_FLAMBY[1], alike, None)]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the study")
    parser.add_argument("--pooled", action="store_true", help="also FLamby's pooled model by a plain loop, 30 s")
    options = parser.parse_args(arguments)
    print("\n".join(table(options.folder, options.pooled)))


if __name__ == "__main__":
    main()
