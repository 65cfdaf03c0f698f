"""Consilia: federated medical learning on NVIDIA FLARE."""

__version__ = "0.1.0"
