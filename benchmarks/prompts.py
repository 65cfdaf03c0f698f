"""Cost of Fed-GPL's training steps on the embedded models, and the bytes of real rounds.

    python -m benchmarks.prompts --out prompts.json [--repeats 30]

Processor time of one thread. The compared steps run in turn, one of each, then all over again; a ratio is the median
over the repeats of the ratio within one repeat. The baseline *input gradient* is what no prompt method can do without:
the frozen backbone's blocks, forwards and backwards to their input, at the same number of tokens.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import Measurement, machine, report
from consilia.core.determinism import generator, single_threaded
from consilia.data.dataset import Split
from consilia.data.loading import load_site
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import own_server
from consilia.methods.tasks import TASKS, Network, network_of
from consilia.simulation.federation import load_federation
from consilia.study.study import Study, load_study, study_config

Step = Callable[[], None]

CLASSIFICATION, SEGMENTATION = "fedgpl-classification", "fedgpl-segmentation"
VIT_BATCH = 32
SAM_BATCH = 8
PROMPTED = ("fedgpl", "fedgpl-normalised")
FULL, INPUT_GRADIENT = "full fine-tuning", "input gradient"
CACHED, UNCACHED = "decoder, cached codes", "decoder, no cache"
LABELS = {FULL: "fedavg", CACHED: "decoder", UNCACHED: "decoder"}
"""Which of a study's methods a step is of, where it is not called the same."""

RATIOS: dict[str, dict[tuple[str, str], float | None]] = {
    CLASSIFICATION: {
        **{(prompted, INPUT_GRADIENT): 1.1 for prompted in PROMPTED},
        # At least 1.3 times as fast as training everything.
        **{(prompted, FULL): 1 / 1.3 for prompted in PROMPTED},
    },
    SEGMENTATION: {**{(prompted, FULL): None for prompted in PROMPTED}, (CACHED, UNCACHED): None},
}
"""Compared steps by study, and the largest ratio that is still good enough."""

ELEMENT_BYTES = {"float32": 4, "float16": 2}


class Federation:
    """A study's federation of phantoms, and its models with their initial weights."""

    def __init__(self, name: str, folder: Path) -> None:
        self.study: Study = load_study(name)
        self.sites = load_federation(self.study.data, folder / "sites")

    def model(self, label: str) -> Any:
        """The network of one of the study's methods."""
        config = study_config(self.study, label, 0, self.sites)
        server = own_server(config, self.sites)
        return config.model.build(seed=0, allowed=server.allow_models, folders=server.foundation_models)

    def batch(self, size: int) -> Split:
        """The first training cases of the first site."""
        path = next(iter(self.sites.values()))
        train = load_site(path, study_config(self.study, "fedgpl", 0, self.sites).dataset).train
        if len(train) < size:
            raise SystemExit(f"a batch of {size} was asked for, {path} has {len(train)} training cases")
        return Split(train.inputs[:size], train.labels[:size], train.case_ids[:size])


def training_step(
    model: nn.Module, task: str, inputs: Tensor, labels: Tensor, *, network: Network | None = None
) -> Step:
    """A step as a site takes it: the task's loss, its gradient, AdamW on what is trained.

    Args:
        model: what is trained.
        task: ``classification`` or ``segmentation``.
        inputs: what the network takes.
        labels: classes or masks.
        network: the part of the model to call; the whole by default.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    draw = generator(0, "draw")
    called = network or network_of(model)
    model.train()

    def step() -> None:
        loss = TASKS[task].loss(called, inputs, labels, draw)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    return step


def input_gradient(backbone: Any, batch: int, prompts: int) -> Step:
    """A frozen ViT's blocks forwards and backwards to their input: class token, patches and as many prompts.

    timm's own blocks and head, on tokens that are drawn once; there is nothing to optimise.
    """
    backbone.requires_grad_(False).eval()
    count = backbone.patch_embed.num_patches + backbone.num_prefix_tokens + prompts
    drawn = torch.randn(batch, count, backbone.embed_dim, generator=generator(0, "tokens"))
    tokens = drawn.requires_grad_()

    def step() -> None:
        tokens.grad = None
        backbone.forward_head(backbone.norm(backbone.blocks(tokens)), pre_logits=True).sum().backward()

    return step


def vit_steps(place: Federation, size: int) -> dict[str, Step]:
    """Steps of the embedded ViT on the same batch; frozen patch embeddings are kept, as a site keeps them."""
    cases = place.batch(size)
    steps = {}
    for label in (*PROMPTED, FULL):
        model = place.model(LABELS.get(label, label))
        kept = bool(model.encoder_is_frozen)
        inputs = model.encode(cases.inputs) if kept else cases.inputs
        network = network_of(model, encoded=kept)
        steps[label] = training_step(model, "classification", inputs, cases.labels, network=network)
    prompted = place.model("fedgpl")
    steps[INPUT_GRADIENT] = input_gradient(prompted.backbone, size, prompted.prompt_generator.units)
    return steps


def sam_steps(place: Federation, size: int) -> dict[str, Step]:
    """Steps of the embedded SAM on the same batch; the cached codes are computed before."""
    cases = place.batch(size)
    steps = {
        label: training_step(place.model(LABELS.get(label, label)), "segmentation", cases.inputs, cases.labels)
        for label in (*PROMPTED, FULL, UNCACHED)
    }
    tuned = place.model(LABELS[CACHED])
    with torch.no_grad():
        codes = tuned.encode(cases.inputs)
    steps[CACHED] = training_step(tuned, "segmentation", codes, cases.labels, network=network_of(tuned, encoded=True))
    return steps


def interleaved(steps: Mapping[str, Step], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each step, one of each in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    # Three more than are counted: the allocator learns the sizes of its buffers, AdamW makes its state.
    for repeat in range(-3, repeats):
        for name, step in steps.items():
            started = time.process_time()
            step()
            if repeat >= 0:
                seconds[name].append(time.process_time() - started)
    return seconds


def time_measurements(study: str, seconds: Mapping[str, list[float]]) -> list[Measurement]:
    """Medians, and ratios beside their bounds."""
    found = [Measurement(f"{study}: {name}", 1000 * median(values), "ms") for name, values in seconds.items()]
    for (one, other), bound in RATIOS[study].items():
        ratio = median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))
        found.append(Measurement(f"{study}: {one} / {other}", ratio, "x", bound))
    return found


def byte_measurements(place: Federation, study: str, folder: Path) -> list[Measurement]:
    """What a site sends in each of two real rounds of Fed-GPL, in both types of exchange."""
    # Every site sends the same tensors: two show what all do.
    sites = dict(list(place.sites.items())[:2])
    found = []
    for dtype, size in ELEMENT_BYTES.items():
        overrides = ["rounds=2", "evaluate_every=0", "training.local_epochs=1", f"exchange_dtype={dtype}"]
        config = study_config(place.study, "fedgpl", 0, sites, [*overrides, "training.device=cpu"])
        record = run_inprocess(config, sites, folder / dtype, server=own_server(config, sites))
        assert record.exchange is not None  # every new record has it
        floor = size * record.exchange.parameters
        up = max(sent for done in record.rounds for sent in done.bytes_up.values())
        found += [
            Measurement(f"{study}: trained, {dtype}", floor, "B"),
            Measurement(f"{study}: sent up per site and round, {dtype}", up, "B", 1.01 * floor + 64_000),
        ]
    return found


def measure(repeats: int, folder: Path) -> tuple[list[Measurement], dict[str, Any]]:
    """The measurements, and the single runs behind them."""
    measurements: list[Measurement] = []
    details: dict[str, Any] = {}
    for study, steps, size in ((CLASSIFICATION, vit_steps, VIT_BATCH), (SEGMENTATION, sam_steps, SAM_BATCH)):
        place = Federation(study, folder / study)
        with single_threaded():
            seconds = interleaved(steps(place, size), repeats)
        measurements += time_measurements(study, seconds) + byte_measurements(place, study, folder / study / "runs")
        details[study] = seconds
    return measurements, {"seconds": details}


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    found = machine()
    with tempfile.TemporaryDirectory(prefix="consilia-benchmark-") as scratch:
        measurements, details = measure(options.repeats, Path(scratch))
    title = f"Training steps: ViT, batch {VIT_BATCH}; SAM, batch {SAM_BATCH}"
    report(title, measurements, details, found, options.out)


if __name__ == "__main__":
    main()
