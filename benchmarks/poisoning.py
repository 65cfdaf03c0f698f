"""One of five sites sends poison: what each robust rule saves, and what it costs when all are honest.

    python -m benchmarks.poisoning --seeds 0,1,2 --out poisoning.json

The Wisconsin breast cancer data over five sites, by a Dirichlet partition of the labels: alpha 100, nearly alike, and
alpha 2, unlike. A seed draws partition, weights and batches. The metric is the accuracy of the last global model on
the test cases of the four honest sites together, by the in-process engine; mean and standard deviation over the
seeds. A run whose honest sites are refused in the end, because poison has taken the global model so far away that
their way back is longer than ``max_update_norm``, fails and has no accuracy.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.common import machine
from consilia.core.determinism import generator, single_threaded
from consilia.core.errors import RunFailed
from consilia.core.files import write_bytes, write_json
from consilia.data.specs import TabularSpec
from consilia.federation.config import RunConfig, run_config
from consilia.federation.inprocess import open_run
from consilia.federation.messages import Broadcast, Reply, Request
from consilia.federation.recorder import versions
from consilia.federation.server_settings import ServerSettings
from consilia.record.schema import Metrics, SiteMetrics
from consilia.simulation.layout import write_layout
from consilia.simulation.partition import dirichlet_partition
from consilia.simulation.wisconsin import CLASSES, wisconsin_sites

SITES, MIN_CASES = 5, 60
CULPRIT = "site-3"
PARTITIONS = {"alike": 100.0, "unlike": 2.0}
METHODS = ("fedavg", "fedkper")
RULES: dict[str, dict[str, Any]] = {
    "mean": {},
    "clipped mean": {"clip_norm": "median"},
    "median": {"rule": "median"},
    "trimmed mean": {"rule": "trimmed_mean"},
}
FLIP, NOISE = 10.0, 100.0

State = Mapping[str, Tensor]
Attack = Callable[[State, State, int], dict[str, Tensor]]
"""The update that a site sends for its own, from its own, the global state and the version it started from."""


def sign_flip(own: State, received: State, version: int) -> dict[str, Tensor]:
    """theta - 10 (theta_k - theta): ten steps back for each one forward."""
    return {name: received[name] - FLIP * (tensor - received[name]) for name, tensor in own.items()}


def scaled_noise(own: State, received: State, version: int) -> dict[str, Tensor]:
    """theta + z: z is Gaussian with L2 norm 100, a tenth of what ``max_update_norm`` lets pass here."""
    source = generator(0, "poison", version)
    noise = {name: torch.randn(tensor.shape, generator=source) for name, tensor in own.items()}
    norm = torch.cat([part.reshape(-1) for part in noise.values()]).norm()
    return {name: received[name] + noise[name] * (NOISE / norm) for name in own}


@dataclasses.dataclass(frozen=True)
class Poison:
    """What the culprit does: ``attack`` its update, ``flipped`` labels in its data, claim the ``score``."""

    attack: Attack | None = None
    flipped: bool = False
    score: float | None = None

    def bend(self, task: Broadcast, reply: Reply) -> Reply:
        """Its reply to a task."""
        if task.request.kind != "train" or task.tensors is None:
            return reply
        if self.attack is not None:
            reply = dataclasses.replace(reply, tensors=self.attack(reply.tensors, task.tensors, task.request.round))
        content = json.loads(reply.content)
        if self.score is not None and content.get("weight") is not None:
            reply = dataclasses.replace(reply, content=json.dumps({**content, "weight": self.score}))
        return reply


POISONS = {
    "none": Poison(),
    "sign flip": Poison(sign_flip),
    "sign flip, score 1": Poison(sign_flip, score=1.0),
    "scaled noise": Poison(scaled_noise),
    "label flip": Poison(flipped=True),
}


def write_sites(out: Path, *, alpha: float, seed: int, flipped: bool) -> dict[str, Path]:
    """Five sites' data and site.yaml under ``out``; ``flipped`` turns every label of the culprit's."""
    parts = wisconsin_sites(out / "pooled")
    table = pd.concat([pd.read_csv(spec.file) for spec in parts.values() if isinstance(spec, TabularSpec)])
    table = table.sort_values("case", ignore_index=True)
    labels = table["diagnosis"].map(CLASSES.index).to_numpy()
    like = next(iter(parts.values()))
    specs = {}
    for number, rows in enumerate(dirichlet_partition(labels, SITES, alpha, seed, MIN_CASES), start=1):
        site, own = f"site-{number}", table.iloc[rows].copy()
        if flipped and site == CULPRIT:
            own["diagnosis"] = own["diagnosis"].map(dict(zip(CLASSES, reversed(CLASSES), strict=True)))
        file = out / site / "cases.csv"
        write_bytes(file, own.to_csv(index=False, lineterminator="\n").encode())
        specs[site] = {"diagnosis": like.model_copy(update={"file": file})}
    return write_layout(specs, {}, out)


def settings(method: str, rule: str, *, seed: int, rounds: int) -> RunConfig:
    """The run: the embedded study's settings, evaluated at the end alone."""
    return run_config(
        {
            "method": method,
            "model": {"class": "consilia.models.mlp.MLP", "args": {"in_features": 30, "num_classes": 2}},
            "rounds": rounds,
            "training": {"local_epochs": 2, "batch_size": 16, "learning_rate": 0.02},
            "evaluate_every": 0,
            "seed": seed,
            "robust": RULES[rule],
            # Attacks that the default would refuse are the rules' to meet here.
            "max_update_norm": 1000,
        }
    )


def outcome(config: RunConfig, site_files: Mapping[str, Path], folder: Path, poison: Poison) -> float | None:
    """Correct cases over all test cases of the honest sites, by the last global model; None where the run fails."""
    with single_threaded():
        sites, coordinator = open_run(config, site_files, folder, server=ServerSettings())

        def deliver(tasks: Sequence[Broadcast]) -> None:
            for task in tasks:
                # Nothing is asked of the personal models, and the sites' own reports take longer than the rounds.
                for name in [] if task.request.final else task.targets:
                    reply = sites[name].answer(task.request, task.tensors)
                    coordinator.receive(name, poison.bend(task, reply) if name == CULPRIT else reply)

        try:
            coordinator.run(deliver)
        except RunFailed:
            return None
        # Not by a request: a site answers none that the run's configuration does not foresee.
        last = Request(kind="evaluate", round=coordinator.version)
        honest = [site for name, site in sites.items() if name != CULPRIT]
        return accuracy([site.evaluation.global_metrics(last, coordinator.state)[0] for site in honest])


def accuracy(evaluations: Sequence[SiteMetrics | None]) -> float:
    """Correct test cases over all, of several sites' evaluations."""
    found = [each.test for each in evaluations if each is not None and isinstance(each.test, Metrics)]
    return sum(metrics.correct for metrics in found) / sum(metrics.count for metrics in found)


def cells(seeds: Sequence[int], rounds: int) -> Iterator[dict[str, Any]]:
    """Every run of the table, one after the other, with its accuracy."""
    for partition, alpha in PARTITIONS.items():
        for name, poison in POISONS.items():
            for seed in seeds:
                with tempfile.TemporaryDirectory(prefix="consilia-poisoning-") as scratch:
                    folder = Path(scratch)
                    sites = write_sites(folder / "sites", alpha=alpha, seed=seed, flipped=poison.flipped)
                    for method in METHODS if poison.score is None else ("fedkper",):
                        for rule in RULES:
                            config = settings(method, rule, seed=seed, rounds=rounds)
                            found = outcome(config, sites, folder / f"{method}-{rule}", poison)
                            keys = {
                                "partition": partition,
                                "attack": name,
                                "method": method,
                                "rule": rule,
                                "seed": seed,
                            }
                            yield {**keys, "accuracy": found}


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row per partition, method and attack, a column per rule."""
    lines = ["| sites | method | attack | " + " | ".join(RULES) + " |", "|---" * (3 + len(RULES)) + "|"]
    for partition, method, attack in itertools.product(PARTITIONS, METHODS, POISONS):
        row = [
            [
                cell["accuracy"]
                for cell in found
                if (cell["partition"], cell["method"], cell["attack"], cell["rule"]) == key
            ]
            for key in ((partition, method, attack, rule) for rule in RULES)
        ]
        if all(row):
            lines.append(f"| {partition} | {method} | {attack} | " + " | ".join(map(shown, row)) + " |")
    return "\n".join(lines)


def shown(accuracies: Sequence[float | None]) -> str:
    """Percent, mean and standard deviation; or how many of the runs failed."""
    values = [100 * value for value in accuracies if value is not None]
    if len(values) < len(accuracies):
        return f"{len(accuracies) - len(values)} of {len(accuracies)} fail"
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    begun = machine()
    found = list(cells([int(seed) for seed in options.seeds.split(",")], options.rounds))
    print(table(found))
    if options.out is not None:
        write_json(options.out, {"machine": begun, "versions": versions(), "rounds": options.rounds, "cells": found})


if __name__ == "__main__":
    main()
