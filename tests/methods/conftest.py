"""Imported before any test below this folder asks for peft, which imports torchvision."""

import consilia  # noqa: F401
