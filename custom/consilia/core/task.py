"""What a model is trained for."""

from __future__ import annotations

from typing import Literal

Task = Literal["classification", "segmentation", "survival"]
