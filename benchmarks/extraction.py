"""What a hostile server gets out of a site: training cases by trap weights, label counts by chosen models.

    python -m benchmarks.extraction --out extraction.json

The server chooses the global weights and a job's training, and looks at what the site's own ``Site.answer`` gives, of
one site of an embedded federation. It has cases of its own that are like the site's, those of another site.

**Trap weights** (Fowl et al. 2022, "Robbing the Fed"; Boenisch et al. 2023). All units of the first linear layer look
along one direction w and begin at rising thresholds t_i: h_i = relu(w x - t_i). Everything above is the same for every
unit. The gradients of two neighbours then differ by the cases between their thresholds alone, and where that is one
case, the difference for the weights divided by that for the bias is the case. ``scale`` makes the layer's weights
small and those above it large: rounding takes less of the gradient then.

**Label counts.** With all weights zero every class has the same probability, and the change of the last bias is
the learning rate times the sum over the steps of (share of the class in the batch - 1 / C). A model that always gives
one class is right in as many cases as there are of it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import machine
from consilia.core.determinism import generator, single_threaded
from consilia.core.errors import LimitReached
from consilia.core.files import write_json
from consilia.data.limits import RESEARCH_LIMITS, SiteLimits
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig, run_config
from consilia.federation.messages import EvaluateReply, Reply, Request
from consilia.federation.recorder import versions
from consilia.federation.site import Site
from consilia.models.exchange import in_type
from consilia.record.schema import Metrics
from consilia.simulation.federation import load_federation

SITE, ANOTHER = 0, 1
"""The site that is attacked, and the one whose cases the server has."""

RECOVERED = 0.01
"""A case counts as recovered when the result is within 1 % of its norm; the nearest other case is far further off."""

State = dict[str, Tensor]


@dataclass(frozen=True)
class Target:
    """A model on an embedded federation: its linear layers from first to last, and what the first one is given."""

    data: str
    model: Mapping[str, Any]
    layers: tuple[str, ...]
    first_input: Callable[[Any, Tensor], Tensor]


TARGETS = {
    "mlp": Target(
        "wisconsin",
        {"class": "consilia.models.mlp.MLP", "args": {"in_features": 30, "num_classes": 2}},
        ("layers.0", "layers.2", "layers.4"),
        lambda model, rows: rows,
    ),
    "cnn": Target(
        "digits",
        {
            "class": "consilia.models.cnn.FourLayerCNN",
            "args": {"num_classes": 10, "image_size": 8, "channels": [16, 32], "hidden": 128},
        },
        ("classifier.1", "classifier.3"),
        lambda model, images: model.classifier[0](model.features(images)),
    ),
}

HALF = {"batch_size": 0.5}
"""Half of the training cases in a batch: the most that a site allows by default."""
GENTLE = {**HALF, "learning_rate": 0.001}

HONEST = {"batch_size": 12, "learning_rate": 0.01, "local_epochs": 5, "momentum": 0.9}


@dataclass(frozen=True)
class Attack:
    """What the server asks of a job's training, in so many updates, under the default limits of a site or none.

    ``scale`` is that of the first layer's weights, ``last`` that of the last layer's: AdamW takes every gradient for
    equally large unless it is far smaller than its epsilon. A ``batch_size`` below 1 is a fraction of the cases.
    ``traps`` False keeps the model's initial weights.
    """

    label: str
    training: Mapping[str, Any]
    scale: float = 1.0
    last: float = 1.0
    updates: int = 1
    limits: bool = True
    exchange_dtype: str = "float32"
    traps: bool = True


ATTACKS = (
    Attack("one batch, learning rate 1e9", {"batch_size": 10**6, "learning_rate": 1e9}, limits=False),
    Attack("learning rate 1", {**HALF, "learning_rate": 1.0}),
    Attack("learning rate 0.001", GENTLE, 0.003),
    Attack("the same, 5 epochs", {**GENTLE, "local_epochs": 5}, 0.003),
    Attack("the same, momentum 0.9", {**GENTLE, "momentum": 0.9}, 0.003),
    Attack("the same, gradient_clip 1", {**GENTLE, "gradient_clip": 1.0}, 0.003),
    Attack("AdamW, learning rate 1", {**HALF, "learning_rate": 1.0, "optimiser": "adamw"}, 0.1, last=1e-9),
    Attack("float16, learning rate 0.1", {**HALF, "learning_rate": 0.1}, 0.01, exchange_dtype="float16"),
    Attack("learning rate 0.001", GENTLE, 0.003, updates=10),
    Attack("learning rate 0.001", GENTLE, 0.003, updates=200),
    Attack("none: honest weights and training", HONEST, updates=10, traps=False),
)


class Server:
    """A hostile server and the site that it asks."""

    def __init__(self, target: Target, attack: Attack, site_files: Sequence[Path]) -> None:
        self.target, self.attack = target, attack
        settings = [load_site_config(path) for path in site_files]
        limits = SiteLimits() if attack.limits else RESEARCH_LIMITS
        own = settings[SITE].model_copy(update={"limits": limits})
        cases = len(Site(self._config(1), settings[SITE]).data.train)
        self.config = self._config(cases)
        self.site, self.known = Site(self.config, own), Site(self.config, settings[ANOTHER]).data.train.inputs
        self.model = self.config.model.build(seed=0, allowed=own.allow_models, folders={})
        self.initial: State = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.truth = self.layer_inputs(self.site.data.train.inputs).double()
        self.ask(Request(kind="prepare"), None)

    def ask(self, request: Request, state: State | None) -> Reply:
        """The site's answer. Raises :class:`LimitReached` where the site refuses it by one of its limits."""
        reply = self.site.answer(request, state)
        if reply.error is not None:
            raise self.site.error or LimitReached(reply.error)
        return reply

    @torch.no_grad()
    def layer_inputs(self, inputs: Tensor) -> Tensor:
        """What the first linear layer is given, (N, F)."""
        return self.target.first_input(self.model, inputs)

    def trapped(self, number: int) -> State:
        """The global weights of one update."""
        first, *above = self.target.layers
        state = {name: tensor.clone() for name, tensor in self.initial.items()}
        if not self.attack.traps:
            return state
        units, features = state[f"{first}.weight"].shape
        direction = torch.randn(features, generator=generator(0, "direction", number))
        direction /= direction.norm()
        projected = self.layer_inputs(self.known) @ direction
        thresholds = torch.quantile(projected, torch.linspace(0.005, 0.995, units))
        scale = self.attack.scale / max(float(projected.std()), 1e-6)
        state[f"{first}.weight"] = (direction * scale).repeat(units, 1)
        state[f"{first}.bias"] = -thresholds * scale
        for layer in above:
            width = state[f"{layer}.weight"].shape[1]
            state[f"{layer}.weight"].fill_(0.1 / self.attack.scale / width if layer == above[0] else 1 / width)
            state[f"{layer}.bias"].fill_(0.1)
        last = state[f"{above[-1]}.weight"]
        # Every class has an error of its own; equal ones would leave no gradient.
        last *= self.attack.last * torch.linspace(-1, 1, len(last))[:, None]
        state[f"{above[-1]}.bias"].zero_()
        return {name: in_type(tensor, self.config.exchange_dtype) for name, tensor in state.items()}

    def candidates(self, sent: State, state: State) -> Tensor:
        """What the server reads out of an update that started from a state, (n, F)."""
        first = self.target.layers[0]
        weight, bias = (
            sent[f"{first}.{part}"].double() - state[f"{first}.{part}"].double() for part in ("weight", "bias")
        )
        weight, bias = torch.cat([weight, weight.diff(dim=0)]), torch.cat([bias, bias.diff()])
        found = weight / bias[:, None]
        return found[found.isfinite().all(dim=1)]

    def recovered(self, state: State, number: int = 0) -> set[int]:
        """Numbers of the training cases that come out of one update from these global weights."""
        sent = dict(self.ask(Request(kind="train", round=number), state).tensors)
        distance = torch.cdist(self.candidates(sent, state), self.truth).amin(dim=0) / self.truth.norm(dim=1)
        return set(torch.nonzero(distance < RECOVERED).flatten().tolist())

    def extract(self) -> set[int]:
        """Numbers of the training cases that come out of all updates."""
        return set().union(*(self.recovered(self.trapped(number), number) for number in range(self.attack.updates)))

    def _config(self, cases: int) -> RunConfig:
        attack, size = self.attack, self.attack.training["batch_size"]
        training = {"local_epochs": 1, "momentum": 0.0, "weight_decay": 0.0, "learning_rate_decay": 1, "device": "cpu"}
        training |= {**attack.training, "batch_size": max(1, int(size * cases)) if size < 1 else size}
        return run_config(
            {
                **{"method": "fedavg", "model": self.target.model, "rounds": attack.updates, "training": training},
                **{"exchange_dtype": attack.exchange_dtype},
                "dataset": {"digits": "digit"}.get(self.target.data, "diagnosis"),
            }
        )


def label_counts(server: Server) -> list[float]:
    """Training cases by class, out of one update of one epoch whose batches are of equal size."""
    training, last = server.config.training, f"{server.target.layers[-1]}.bias"
    zero = {name: torch.zeros_like(tensor) for name, tensor in server.initial.items()}
    moved = server.ask(Request(kind="train"), zero).tensors[last].double() / training.learning_rate
    size = min(training.batch_size, len(server.truth))
    return list((moved * size + len(server.truth) / len(moved)).tolist())


def evaluated_counts(server: Server) -> list[int]:
    """Test cases by class: what a model that always gives one class has right, for each class."""
    last, counts = f"{server.target.layers[-1]}.bias", []
    for number, constant in enumerate(torch.eye(len(server.initial[last])) * 10):
        state = {name: torch.zeros_like(tensor) for name, tensor in server.initial.items()} | {last: constant}
        reply = server.ask(Request(kind="evaluate", round=number), state)
        test = EvaluateReply.model_validate_json(reply.content).received.test  # type: ignore[union-attr]
        counts.append(test.correct if isinstance(test, Metrics) else -1)
    return counts


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    begun, found = machine(), []
    print("| model | attack | limits | updates | recovered |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="consilia-extraction-") as scratch, single_threaded():
        for name, target in TARGETS.items():
            files = list(load_federation(target.data, Path(scratch) / name).values())
            for attack in ATTACKS:
                server = Server(target, attack, files)
                cells = [name, attack.label, "default" if attack.limits else "none", str(attack.updates)]
                found.append([*cells, len(server.extract()), len(server.truth)])
                print("| " + " | ".join(cells) + " | {} of {} |".format(*found[-1][-2:]), flush=True)
    if options.out is not None:
        write_json(options.out, {"machine": begun, "versions": versions(), "attacks": found})


if __name__ == "__main__":
    main()
