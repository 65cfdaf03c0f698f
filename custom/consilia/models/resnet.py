"""A small residual network with group normalisation: the default for square images.

    image (in_channels, S, S)
      -> conv3x3 /2 - norm - ReLU                                   stem        w channels,  S/2
      -> [block x 1] -> [block x 1, /2] -> [... /2] -> [... /2]     stages      w, 2w, 4w, 8w,  S/2 ... S/16
      -> mean over the positions - linear                           head        C logits

    block:  x --- conv3x3 - norm - ReLU - conv3x3 - norm --- + - ReLU
              '------------ (conv1x1 - norm) ---------------'

He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (CVPR 2016), with the group normalisation of Wu
and He (ECCV 2018) in place of batch normalisation: what a case gives does not depend on its batch, nor a site's model
on running means that federated averaging mixes (Hsieh et al., ICML 2020).
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

GROUPS = 8


class SmallResNet(nn.Module):
    """A residual network of about 0.3 million parameters (``width`` 16), for images of 28 to 224 pixels.

    The mean over the positions lets it take any image size; the saved model fits no single one.

    Args:
        num_classes: number of classes C.
        in_channels: 1 for grey, 3 for colour images.
        width: channels w of the stem and the first stage; a multiple of 8. Parameters grow with its square.
        blocks: residual blocks of every stage.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, width: int = 16, blocks: int = 1) -> None:
        super().__init__()
        if width < GROUPS or width % GROUPS:
            raise ValueError(f"width must be a multiple of {GROUPS} (normalised in {GROUPS} groups), got {width}")
        if blocks < 1:
            raise ValueError(f"blocks must be at least 1, got {blocks}")
        self.stem = nn.Sequential(*_convolution(in_channels, width, stride=2), nn.ReLU())
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    _Block(before, after, stride=1 if before == after else 2),
                    *(_Block(after, after) for _ in range(blocks - 1)),
                )
                for before, after in pairwise(channels)
            )
        )
        self.head = nn.Linear(channels[-1], num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, S, S) -> features (B, 8 width)."""
        maps: Tensor = self.stages(self.stem(images))
        return maps.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, S, S) -> logits (B, C)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class _Block(nn.Module):
    """Two convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(*_convolution(before, after, stride=stride), nn.ReLU(), *_convolution(after, after))
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(before, after, size=1, stride=stride))
        self.activation = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, before, H, W) -> (B, after, H / stride, W / stride)."""
        result: Tensor = self.activation(self.body(maps) + self.shortcut(maps))
        return result


def _convolution(before: int, after: int, *, size: int = 3, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias, which the normalisation after it would take away again."""
    convolution = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution, nn.GroupNorm(GROUPS, after)
