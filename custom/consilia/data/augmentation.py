"""Augmentation of training images, by MONAI's random transforms.

What happens to a case is decided by (seed, site, round, epoch, case) alone: not by the order of batches, nor by any
global generator. A mask moves with its image. Evaluations see the cases as they are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from consilia.core.determinism import derive_seed
from consilia.core.errors import ConfigError
from consilia.core.schema import Strict

Transform = Callable[[Tensor, Tensor, Sequence[str]], tuple[Tensor, Tensor]]
"""Inputs (B, ...), labels (B,) or masks (B, H, W), and case ids (B) -> inputs and labels of the same shapes."""

log = logging.getLogger(__name__)

AXES = {"vertical": 0, "horizontal": 1}  # of (rows, columns)
SEEDS = 1 << 32  # MONAI seeds NumPy's generators, which take 32 bits


class AugmentationConfig(Strict):
    """How training images are changed; each range is drawn from uniformly, for every case anew in every epoch.

    Attributes:
        flip: directions in which an image is mirrored, each with probability 1/2.
        shift: largest shift, as a fraction of the image's height and width.
        rotate: largest rotation, in degrees.
        scale: largest change of size, as a fraction.
        intensity: the standardised values are multiplied by 1 + a, then b is added, |a| and |b| at most this.
    """

    flip: tuple[Literal["horizontal", "vertical"], ...] = ()
    shift: float = Field(0.0, ge=0, le=0.5)
    rotate: float = Field(0.0, ge=0, le=180)
    scale: float = Field(0.0, ge=0, lt=1)
    intensity: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _changes_something(self) -> AugmentationConfig:
        if self == AugmentationConfig.model_construct():
            raise ValueError(
                "changes nothing: set flip, shift, rotate, scale or intensity, or null for no augmentation"
            )
        if len(set(self.flip)) != len(self.flip):
            raise ValueError(f"flip names each direction once, got {list(self.flip)}")
        return self

    @property
    def moves(self) -> bool:
        """Whether pixels are interpolated."""
        return bool(self.shift or self.rotate or self.scale)


PRESETS = {"images": {"flip": ("horizontal",), "shift": 0.1, "rotate": 15.0, "scale": 0.1, "intensity": 0.1}}


def _preset(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(f"expected null, {', '.join(PRESETS)} or a mapping of flip, shift, rotate, scale, intensity")
    return PRESETS[value]


AugmentationChoice = Annotated[AugmentationConfig | None, BeforeValidator(_preset)]
"""``null``, the name of a preset, or a mapping."""


class Augmentation:
    """The transforms of one site's run.

    Args:
        config: what is changed.
        seed: of the run.
        site: name of the site.
    """

    def __init__(self, config: AugmentationConfig, seed: int, site: str) -> None:
        self.config, self.seed, self.site = config, seed, site
        self._composed: dict[tuple[int, int, bool], Any] = {}

    def check(self, inputs: Tensor) -> None:
        """Raise :class:`ConfigError` unless the inputs are images (N, C, H, W).

        MONAI is imported here, so that no round has to wait for it.
        """
        if not are_images(inputs):
            raise ConfigError(
                f"training.augmentation changes images, but the inputs of site {self.site} have the shape "
                f"{tuple(inputs.shape[1:])} each: set training.augmentation to null"
            )
        self._transforms(*inputs.shape[2:], masked=False)

    def check_several(self, inputs: Mapping[str, Tensor]) -> None:
        """As :meth:`check`, for datasets that are trained together: those without images stay as they are.

        A site that has no images at all is told so in its log: other sites of the run may have some.
        """
        images = {name: tensor for name, tensor in inputs.items() if are_images(tensor)}
        for tensor in images.values():
            self.check(tensor)
        log.info(
            "site %s: training.augmentation changes images: those of %s; %s stay as they are",
            self.site,
            ", ".join(sorted(images)) or "no dataset",
            ", ".join(sorted(set(inputs) - set(images))) or "no others",
        )

    def transform(self, round_number: int, epoch: int) -> Transform:
        """The transform of one pass over the training cases. What is no image passes unchanged."""
        return partial(self._batch, round_number, epoch)

    def _batch(
        self, round_number: int, epoch: int, inputs: Tensor, labels: Tensor, cases: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        if not are_images(inputs):
            return inputs, labels
        masks = labels if labels.ndim == 3 else None
        changed = [
            self._case(inputs[i], None if masks is None else masks[i], (round_number, epoch, case))
            for i, case in enumerate(cases)
        ]
        images = torch.stack([image for image, _ in changed])
        return images, labels if masks is None else torch.stack([mask for _, mask in changed if mask is not None])

    def _case(self, image: Tensor, mask: Tensor | None, purpose: tuple[int, int, str]) -> tuple[Tensor, Tensor | None]:
        """One image (C, H, W) and its mask (H, W), if it has one."""
        height, width = image.shape[1:]
        composed = self._transforms(height, width, masked=mask is not None)
        composed.set_random_state(seed=derive_seed(self.seed, "augment", self.site, *purpose) % SEEDS)
        case = {"image": image} if mask is None else {"image": image, "mask": mask[None]}
        with _plain_tensors():
            changed = composed(case)
        plain = {key: value.as_subclass(Tensor).to(case[key].dtype) for key, value in changed.items()}
        return plain["image"], plain["mask"][0] if "mask" in plain else None

    def _transforms(self, height: int, width: int, *, masked: bool) -> Any:
        key = (height, width, masked)
        if key not in self._composed:
            self._composed[key] = compose(self.config, height, width, masked)
        return self._composed[key]


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Inside the block MONAI does not note in each tensor what was done to it: a third of the time of a case."""
    from monai.data import get_track_meta, set_track_meta

    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)


def are_images(inputs: Tensor) -> bool:
    """Whether inputs are a batch of two-dimensional images."""
    return inputs.ndim == 4


def compose(config: AugmentationConfig, height: int, width: int, masked: bool) -> Any:
    """MONAI's transforms of a dictionary with ``image`` (C, H, W) and, if ``masked``, ``mask`` (1, H, W).

    Beyond its edge an image goes on with the edge's values.
    """
    # MONAI takes seconds to import: only who augments waits for it.
    from monai.transforms import Compose, RandAffined, RandFlipd, RandScaleIntensityd, RandShiftIntensityd

    keys = ("image", "mask") if masked else ("image",)
    steps: list[Any] = [RandFlipd(keys, prob=0.5, spatial_axis=AXES[direction]) for direction in config.flip]
    if config.moves:
        steps.append(
            RandAffined(
                keys,
                prob=1.0,
                rotate_range=math.radians(config.rotate),
                translate_range=(config.shift * height, config.shift * width),
                scale_range=(config.scale, config.scale),
                mode=("bilinear", "nearest")[: len(keys)],
                padding_mode="border",
            )
        )
    if config.intensity:
        steps.append(RandScaleIntensityd("image", factors=config.intensity, prob=1.0))
        steps.append(RandShiftIntensityd("image", offsets=config.intensity, prob=1.0))
    return Compose(steps)
