from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from consilia.methods.config import TrainingConfig
from consilia.methods.fit import make_optimiser

SETTINGS = {
    "sgd": {"momentum": 0.9, "weight_decay": 0.01},
    "adamw": {"weight_decay": 0.05},
}
TORCHS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}

ONE_STEP = """
import sys, torch
from consilia.methods.config import TrainingConfig
from consilia.methods.fit import make_optimiser

weight = torch.nn.Parameter(torch.ones(3))
for name in ("sgd", "adamw"):
    optimiser = make_optimiser([weight], TrainingConfig(optimiser=name), 0.1)
    optimiser.zero_grad(set_to_none=True)
    weight.sum().backward()
    optimiser.step()
print("torch._dynamo" in sys.modules)
"""


def trained(make) -> list[torch.Tensor]:
    """A small network after five steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 2))
    optimiser = make(list(model.parameters()))
    inputs, labels = torch.randn(20, 5), torch.arange(20) % 2
    for _ in range(5):
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    return list(model.parameters())


@pytest.mark.parametrize("name", SETTINGS)
def test_an_optimiser_steps_as_torchs_own(name: str) -> None:
    config = TrainingConfig(optimiser=name, **SETTINGS[name])
    ours = trained(lambda parameters: make_optimiser(parameters, config, 0.02))
    theirs = trained(lambda parameters: TORCHS[name](parameters, lr=0.02, **SETTINGS[name]))
    assert all(map(torch.equal, ours, theirs))


def test_an_optimiser_does_not_load_torchs_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", ONE_STEP], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
