"""What an injection will need, told before it starts: memory by formula, time by one measured batch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import psutil
import torch

from consilia.core.determinism import seeded
from consilia.methods.fedkim.cases import Cases
from consilia.methods.fedkim.config import FedKIMConfig, InjectionConfig
from consilia.methods.fedkim.injected import InjectedModel
from consilia.methods.fedkim.injection import autocast, plan

STATE_BYTES = 16
"""Per trained element: weight, gradient and AdamW's two moments in float32."""


def injection_bytes(
    *, frozen: int, trained: int, element: int, tokens: int, width: int, layers: int, rank: int, checkpointing: bool
) -> int:
    """Memory that one step needs, in bytes.

    Frozen weights; :data:`STATE_BYTES` per trained element; activations of ``tokens`` positions: about 34 bytes per
    position, unit of width and layer in half precision (Korthikanti et al. 2022, section 4, attention matrices left
    out), of which checkpointing keeps 2 and one layer's worth; and the experts' gated slots of seven maps per layer.

    Args:
        frozen: elements of the language model.
        trained: elements that train.
        element: bytes of a frozen element and of an activation's.
        tokens: positions of all sequences that go through the model together.
        width: of the hidden states.
        layers: of the language model.
        rank: P * r.
        checkpointing: gradient checkpointing.
    """
    whole = 17 * element * tokens * width + 2 * 7 * 4 * tokens * rank
    stored = layers * element * tokens * width + whole if checkpointing else layers * whole
    return frozen * element + trained * STATE_BYTES + stored


def estimate(
    model: InjectedModel, public: Mapping[str, Cases], config: FedKIMConfig, device: torch.device
) -> dict[str, Any]:
    """Steps and seconds of one round's injection (by a step tried and undone), bytes needed and bytes there.

    ``seconds`` is None, and nothing is tried, where the bytes are not there.
    """
    settings = config.injection
    planned = plan(public, settings, 0, "estimate")
    together = math.ceil(settings.batch_size / settings.accumulate)
    task = max(public, key=lambda name: len(public[name]))
    batch = public[task].take(torch.arange(min(together, len(public[task]))))
    language = model.language.config
    sizes = [parameter.numel() for parameter in model.trained().values()]
    needed = injection_bytes(
        frozen=sum(parameter.numel() for parameter in model.language.parameters() if not parameter.requires_grad),
        trained=sum(sizes),
        element=next(model.embed.parameters()).element_size(),
        tokens=_positions(model, batch),
        width=model.embed.embedding_dim,
        layers=language.num_hidden_layers,
        rank=config.experts * config.rank if config.adapter == "m3oe" else 0,
        checkpointing=settings.gradient_checkpointing,
    )
    free = _free(device)
    # A step that does not fit would end the process before anybody was told why.
    seconds = _tried(model, batch, settings, device) * len(planned) * settings.accumulate if needed < free else None
    return {"steps": len(planned), "seconds": seconds, "bytes": needed, "bytes_free": free}


def in_words(needs: Mapping[str, Any]) -> str:
    """What an injection will take, by :func:`estimate`, with advice where memory is short."""
    needed, free = (needs[key] / 1e9 for key in ("bytes", "bytes_free"))
    if needs["seconds"] is None:
        return (
            f"each injection: {needs['steps']} steps and about {needed:.1f} GB, more than the {free:.1f} GB that are "
            "free: set injection.accumulate, injection.gradient_checkpointing or injection.precision"
        )
    minutes = needs["seconds"] / 60
    return (
        f"each injection: {needs['steps']} steps, about {minutes:.1f} minutes and {needed:.1f} GB here "
        f"({free:.1f} GB free)"
    )


def _tried(model: InjectedModel, batch: Cases, settings: InjectionConfig, device: torch.device) -> float:
    """Seconds of one forward and backward pass, the second of two; no weight changes."""
    seconds = 0.0
    model.train()  # or gradient checkpointing does not act
    for _ in range(2):
        started = time.perf_counter()
        with seeded(0, "estimate"):
            with autocast(settings, device):
                loss, _ = model.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
        model.zero_grad(set_to_none=True)
    model.eval()
    return seconds


@torch.no_grad()
def _positions(model: InjectedModel, batch: Cases) -> int:
    read = model.read(batch, [[]] * len(batch))
    return int(read["inputs_embeds"].shape[0] * read["inputs_embeds"].shape[1])


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
