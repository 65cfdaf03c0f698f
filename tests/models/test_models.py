"""Models: shapes, counts by hand, and what may be built."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from consilia.core.determinism import state_digest
from consilia.core.errors import ConfigError
from consilia.data.allowed import DEFAULT_ALLOWED
from consilia.models.build import build_model, is_allowed
from consilia.models.cnn import FourLayerCNN
from consilia.models.config import ModelConfig
from consilia.models.linear import LogisticRegression
from consilia.models.mlp import MLP


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_papers_cnn() -> None:
    model = FourLayerCNN(num_classes=8, in_channels=3)
    # 5*5*3*32+32, 5*5*32*64+64, (64*7*7)*512+512, 512*8+8
    assert count(model) == 2432 + 51264 + 1606144 + 4104
    assert model(torch.zeros(2, 3, 28, 28)).shape == (2, 8)
    assert FourLayerCNN(2, image_size=64, channels=[4, 8], hidden=16)(torch.zeros(1, 1, 64, 64)).shape == (1, 2)
    with pytest.raises(ValueError, match=r"multiple of 4 .*got 30"):
        FourLayerCNN(2, image_size=30)


def test_mlp() -> None:
    model = MLP(13, 2, hidden=[6, 5])
    assert count(model) == (13 * 6 + 6) + (6 * 5 + 5) + (5 * 2 + 2)
    assert model(torch.zeros(3, 13)).shape == (3, 2)
    assert count(MLP(4, 3, hidden=[])) == 4 * 3 + 3


def test_seeds_decide_initial_weights_and_leave_the_global_generator_alone() -> None:
    arguments = {"in_features": 4, "num_classes": 2}
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    digests = [state_digest(build_model("consilia.models.mlp.MLP", arguments, seed=s).state_dict()) for s in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert digests[0] == digests[1] != digests[2]


def test_a_plain_seed_gives_the_weights_that_a_script_has() -> None:
    torch.manual_seed(42)
    expected = torch.nn.Linear(13, 1)
    path, arguments = "consilia.models.linear.LogisticRegression", {"in_features": 13}
    model = build_model(path, arguments, seed=42, plain_seed=True)
    assert torch.equal(model.layer.weight, expected.weight)
    assert torch.equal(model.layer.bias, expected.bias)
    derived = build_model(path, arguments, seed=42)
    assert not torch.equal(derived.layer.weight, expected.weight)
    chosen = {"class": path, "args": arguments, "plain_seed": True}
    built = ModelConfig.model_validate(chosen).build(seed=42, allowed=(path,), folders={})
    assert torch.equal(built.layer.weight, expected.weight)


def test_cross_entropy_of_a_logistic_regression_is_binary() -> None:
    model, inputs, labels = LogisticRegression(5), torch.randn(7, 5), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    ours = functional.cross_entropy(model(inputs), labels)
    plain = functional.binary_cross_entropy_with_logits(model.layer(inputs)[:, 0], labels.float())
    torch.testing.assert_close(ours, plain)
    for one, other in zip(*(torch.autograd.grad(loss, model.parameters()) for loss in (ours, plain)), strict=True):
        torch.testing.assert_close(one, other)
    assert model(torch.randn(3, 1, 1, 5)).shape == (3, 2)


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "consilia.models.build.build_model", "torch.load"])
def test_only_listed_classes_are_built(path: str) -> None:
    with pytest.raises(ConfigError, match="is not listed here"):
        build_model(path, {}, seed=0)


def test_a_wildcard_covers_one_module_and_not_those_below() -> None:
    assert is_allowed("monai.networks.nets.DenseNet", ["monai.networks.nets.*"])
    assert not is_allowed("monai.networks.nets.densenet.DenseNet", ["monai.networks.nets.*"])
    assert not is_allowed("consilia.models.mlp.MLPX", DEFAULT_ALLOWED)


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("consilia.models.mlp.Nothing", {}, "cannot import"),
        ("consilia.nowhere.Model", {}, "cannot import"),
        ("consilia.models.mlp.MLP", {"in_features": 3}, "cannot build"),
        ("consilia.models.mlp.MLP", {"in_features": 3, "num_classes": 2, "pretrained": True}, "would download"),
        ("builtins.dict", {"a": 1}, "built a dict, expected a torch.nn.Module"),
    ],
)
def test_errors_say_what_is_wrong(path: str, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(path, arguments, seed=0, allowed=(path,))


@pytest.mark.slow
def test_timm_and_monai_classes_train_a_step() -> None:
    cases = [
        ("timm.create_model", {"model_name": "resnet10t", "num_classes": 3, "in_chans": 1}, (2, 1, 64, 64)),
        (
            "monai.networks.nets.DenseNet",
            {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "init_features": 8, "block_config": [2, 2]},
            (2, 1, 32, 32),
        ),
    ]
    for path, arguments, shape in cases:
        model = build_model(path, arguments, seed=0, allowed=(path,))
        logits = model(torch.randn(shape))
        assert logits.shape == (2, 3)
        logits.sum().backward()
