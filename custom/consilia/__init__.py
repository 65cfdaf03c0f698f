"""Consilia: federated medical learning on NVIDIA FLARE."""

from consilia.core import torchvision_hook

__version__ = "0.1.0"

torchvision_hook.install()
