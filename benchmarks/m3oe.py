"""Cost of M3OE's training step against peft's LoRA: same rank in all, and the rank of one expert.

    python -m benchmarks.m3oe --out m3oe.json [--repeats 5]

Processor time of one thread for a forward and a backward pass, in single precision, all linear layers of the blocks
adapted, the inputs' gradient included (the aligned features need it). M3OE's step includes its router. The compared
steps run in turn, one of each, then all over again; a ratio is the median over the repeats of the ratio within one
repeat. The two shapes are a language model of some million parameters and two layers of one of seven billion.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.common import Measurement, machine, report
from benchmarks.prompts import Step, interleaved
from consilia.core.determinism import generator, seeded, single_threaded
from consilia.methods.fedkim.m3oe import M3OEConfig

EXPERTS, RANK = 12, 8
VOCABULARY = 512
DESCRIPTION_TOKENS = {"modality": 16, "task": 48}
M3OE, SAME_RANK, ONE_EXPERT = "M3OE", f"LoRA of rank {EXPERTS * RANK}", f"LoRA of rank {RANK}"


@dataclass(frozen=True)
class Shape:
    """A language model, its batch, and the largest ratios that are still good enough."""

    name: str
    width: int
    intermediate: int
    layers: int
    heads: int
    batch: int
    tokens: int
    bounds: Mapping[str, float | None]


SHAPES = (
    Shape("small", 256, 704, 6, 8, 8, 128, {SAME_RANK: 1.15, ONE_EXPERT: None}),
    Shape("7B-like", 4096, 11008, 2, 32, 1, 256, {SAME_RANK: 1.15, ONE_EXPERT: 1.35}),
)


def language_model(shape: Shape) -> Any:
    """A Llama of this shape with drawn weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.tokens,
    )
    with seeded(0, "language model"):
        return LlamaForCausalLM(config)


def step_of(name: str, shape: Shape) -> Step:
    """Forwards and backwards with one kind of adapter."""
    from peft import LoraConfig, get_peft_model

    if name == M3OE:
        config: Any = M3OEConfig(num_experts=EXPERTS, r=RANK, embedding_dim=shape.width)
    else:
        rank = RANK if name == ONE_EXPERT else EXPERTS * RANK
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(language_model(shape), config).train()
    draw = generator(0, "inputs")
    inputs = torch.randn(shape.batch, shape.tokens, shape.width, generator=draw).requires_grad_()
    labels = torch.randint(VOCABULARY, (shape.batch, shape.tokens), generator=draw)
    texts = {
        text: torch.randn(shape.batch, tokens, shape.width, generator=draw)
        for text, tokens in DESCRIPTION_TOKENS.items()
    }
    masks = {text: torch.ones(embeddings.shape[:2]) for text, embeddings in texts.items()}

    def step() -> None:
        if name == M3OE:
            tuner = model.base_model
            tuner.set_gates(tuner.route(texts["modality"], masks["modality"], texts["task"], masks["task"]))
        loss = model(inputs_embeds=inputs, labels=labels).loss
        model.zero_grad(set_to_none=True)
        inputs.grad = None
        loss.backward()

    return step


def measurements(shape: Shape, seconds: Mapping[str, list[float]]) -> list[Measurement]:
    """Medians, and ratios beside their bounds."""
    found = [Measurement(f"{shape.name}: {name}", 1000 * median(values), "ms") for name, values in seconds.items()]
    for other, bound in shape.bounds.items():
        ratio = median(a / b for a, b in zip(seconds[M3OE], seconds[other], strict=True))
        found.append(Measurement(f"{shape.name}: {M3OE} / {other}", ratio, "x", bound))
    return found


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], help="only this one")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    found = machine()
    measured, details = [], {}
    for shape in SHAPES:
        if options.shape in (None, shape.name):
            with single_threaded():
                steps = {name: step_of(name, shape) for name in (M3OE, SAME_RANK, ONE_EXPERT)}
                details[shape.name] = interleaved(steps, options.repeats)
            measured += measurements(shape, details[shape.name])
    report(f"A training step with {EXPERTS} experts of rank {RANK}", measured, {"seconds": details}, found, options.out)


if __name__ == "__main__":
    main()
