"""Which models a participant lets jobs name, and where it keeps the pre-trained ones."""

from __future__ import annotations

from pydantic import Field

from consilia.core.schema import Strict
from consilia.data.yaml_file import AbsolutePath

DEFAULT_ALLOWED = (
    "consilia.models.cnn.FourLayerCNN",
    "consilia.models.extractor.KnowledgeExtractor",
    "consilia.models.linear.LogisticRegression",
    "consilia.models.linear.PooledLinear",
    "consilia.models.mlp.MLP",
    "consilia.models.prompted_sam.PromptedSam",
    "consilia.models.prompted_vit.PromptedViT",
    "consilia.models.resnet.SmallResNet",
    "consilia.models.sequences.SeriesGRU",
    "consilia.models.sequences.SignalCNN",
    "consilia.models.tuned.TunedSam",
    "consilia.models.tuned.TunedViT",
)

DIGEST = r"^sha256:[0-9a-f]{64}$"
"""How a digest is written. Without the prefix NVFlare takes a job's 64 hexadecimal digits for a leaked secret."""


class FoundationFolder(Strict):
    """Where a participant keeps a foundation model, and its digest by :mod:`consilia.models.foundation`."""

    folder: AbsolutePath
    digest: str = Field(pattern=DIGEST)
