"""The import of torchvision beside a torch that its compiled part does not fit. Every test has a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

# Looked for, not imported: nothing here may import torchvision in this process.
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("torchvision", "timm", "peft")), reason="needs the extra foundation"
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_user_s_own_import_of_timm_works_once_consilia_is_imported() -> None:
    code = (
        "import consilia, timm, torch\n"
        "model = timm.create_model('resnet10t', num_classes=3).eval()\n"
        "print(tuple(model(torch.zeros(2, 3, 64, 64)).shape))\n"
    )
    assert run(code) == "(2, 3)\n"


@pytest.mark.slow
def test_peft_and_a_second_import_work_too() -> None:
    code = (
        "import consilia, peft, torchvision.transforms\n"
        "from torchvision import models, tv_tensors\n"
        "print(peft.LoraConfig.__name__, torchvision.transforms.Resize.__name__, models.resnet18.__name__)\n"
    )
    assert run(code) == "LoraConfig Resize resnet18\n"


@pytest.mark.slow
def test_an_import_that_failed_before_works_afterwards() -> None:
    code = (
        "try:\n    import torchvision\nexcept RuntimeError: pass\n"
        "import consilia, torchvision\n"
        "print(torchvision.transforms.__name__)\n"
    )
    assert run(code) == "torchvision.transforms\n"


def test_the_hook_is_installed_once_and_leaves_other_modules_alone() -> None:
    code = (
        "import importlib.util, sys, consilia\n"
        "importlib.reload(consilia)\n"
        "ours = [f for f in sys.meta_path if type(f).__module__.startswith('consilia')]\n"
        "print(len(ours), ours[0].find_spec('json', None), ours[0].find_spec('torchvision.models', None))\n"
        "print(importlib.util.find_spec('torchvision').name, 'torchvision' in sys.modules, 'torch' in sys.modules)\n"
    )
    assert run(code) == "1 None None\ntorchvision False False\n"
