"""Before any test below this folder imports peft or transformers."""

from consilia.models.torchvision_shim import ensure_torchvision

ensure_torchvision()
