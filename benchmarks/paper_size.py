"""Fed-GPL at the paper's size: ViT-B/16 at 224 and SAM ViT-B at 1024, at random weights.

    python -m benchmarks.paper_size --out paper_size.json [--models vit sam] [--device cuda]

Counts what is trained and takes real training steps on random images. On the CPU that is one step on one thread, in
processor time, each model in a process of its own (SAM takes a minute or more and 9 GB). On a GPU it is images per
second under bf16 autocast, the median of several steps after two that are not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import Measurement, machine, memory, report
from benchmarks.prompts import training_step
from consilia.core.determinism import generator, seeded, single_threaded
from consilia.methods.tasks import Network, network_of
from consilia.models.foundation import empty_foundation
from consilia.models.prompted_sam import PromptedSam
from consilia.models.prompted_vit import PromptedViT

CLASSES = 5
WARM_UP, TIMED = 2, 8


@dataclass(frozen=True)
class Size:
    """A model by its config.json, and what is put through it.

    Attributes:
        task: ``classification`` builds a PromptedViT, ``segmentation`` a PromptedSam.
        config: of the foundation model.
        pixels: side of the images.
        batch: images per step.
        trained: parameters that the paper's configuration trains (specification 2.4); None for another size.
    """

    task: str
    config: Mapping[str, Any]
    pixels: int
    batch: int
    trained: int | None = None

    def model(self) -> nn.Module:
        """The prompted model at random weights, with the paper's prompt length."""
        with seeded(0, "paper-size"):
            foundation = empty_foundation(self.config)
            if self.task == "segmentation":
                return PromptedSam(foundation, prompt_rows=1)
            return PromptedViT(foundation, CLASSES, prompt_length=10)

    def cases(self) -> tuple[Tensor, Tensor]:
        """Random images, and classes or masks: a square of half the side."""
        inputs = torch.randn(self.batch, 3, self.pixels, self.pixels, generator=generator(0, "images"))
        if self.task == "classification":
            return inputs, torch.arange(self.batch) % CLASSES
        masks = torch.zeros(self.batch, self.pixels, self.pixels, dtype=torch.uint8)
        quarter = self.pixels // 4
        masks[:, quarter : 3 * quarter, quarter : 3 * quarter] = 1
        return inputs, masks


SIZES = {
    "vit": Size("classification", {"architecture": "vit_base_patch16_224"}, 224, 32, 7_098_826),
    # transformers' default is SAM ViT-B; at its initial spread of 1e-10 all gradients would vanish.
    "sam": Size(
        "segmentation",
        {"model_type": "sam", "initializer_range": 0.02, "vision_config": {"initializer_range": 0.02}},
        1024,
        1,
        6_141_476,
    ),
}
TITLES = {"vit": "ViT-B/16 at 224", "sam": "SAM ViT-B at 1024"}


def counts(model: Any) -> dict[str, float]:
    """Parameters that are ``trained``, and those of the ``foundation`` model."""
    foundation = model.sam if isinstance(model, PromptedSam) else model.backbone
    return {
        "trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "foundation": sum(parameter.numel() for parameter in foundation.parameters()),
    }


def cpu_step(size: Size) -> dict[str, float]:
    """One step on one thread: processor seconds, the process's peak memory in bytes, and the counts."""
    with single_threaded():
        model = size.model()
        step = training_step(model, size.task, *size.cases())
        started = time.process_time()
        step()
        seconds = time.process_time() - started
    return {**counts(model), "seconds": seconds, "peak_bytes": memory(peak=True)}


def in_bf16(model: nn.Module, device: str) -> Network:
    """The model under bf16 autocast; its answers in float32, in which the losses are taken."""

    def called(inputs: Tensor, *arguments: Any, **options: Any) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            answer: Tensor = model(inputs, *arguments, **options)
        return answer.float()

    return network_of(called)


def cuda_steps(size: Size) -> dict[str, float]:
    """Median seconds of a step under bf16 autocast, the GPU's peak memory in bytes, and the counts."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = size.model().cuda()
    inputs, labels = (tensor.cuda() for tensor in size.cases())
    step = training_step(model, size.task, inputs, labels, network=in_bf16(model, "cuda"))
    seconds = []
    for _ in range(WARM_UP + TIMED):
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {
        **counts(model),
        "seconds": median(seconds[WARM_UP:]),
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }


def in_child(name: str) -> dict[str, float]:
    """:func:`cpu_step` in a process of its own, so that no other model's memory counts."""
    command = [sys.executable, "-m", "benchmarks.paper_size", "--child", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measurements(name: str, found: Mapping[str, float], device: str) -> list[Measurement]:
    """Counts beside the paper's, time and memory."""
    title, size = TITLES[name], SIZES[name]
    rows = [
        Measurement(f"{title}: parameters of the foundation model", found["foundation"], ""),
        Measurement(f"{title}: trained", found["trained"], "", size.trained),
        Measurement(f"{title}: trained, share of those", 100 * found["trained"] / found["foundation"], "%"),
        Measurement(f"{title}: one step of {size.batch}, {device}", found["seconds"], "s"),
        Measurement(f"{title}: peak memory, {device}", found["peak_bytes"] / 1e9, "GB"),
    ]
    if device == "cuda":
        rows.append(Measurement(f"{title}: images per second, {device}", size.batch / found["seconds"], "1/s"))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--models", nargs="+", choices=sorted(SIZES), default=list(SIZES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--child", choices=sorted(SIZES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        print(json.dumps(cpu_step(SIZES[options.child])))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no GPU here")
    found = machine()
    measured = {
        name: cuda_steps(SIZES[name]) if options.device == "cuda" else in_child(name) for name in options.models
    }
    rows = [row for name, one in measured.items() for row in measurements(name, one, options.device)]
    report("Fed-GPL at the paper's size", rows, {"measured": measured}, found, options.out)


if __name__ == "__main__":
    main()
