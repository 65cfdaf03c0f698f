"""Which network a run trains, and which pre-trained model it builds on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator
from torch import nn

from consilia.core.schema import Strict
from consilia.data.allowed import DIGEST, FoundationFolder
from consilia.data.site import SiteConfig
from consilia.models.build import build_model
from consilia.models.foundation import EMBEDDED, embedded_digest, load_foundation


class FoundationConfig(Strict):
    """The pre-trained model that something builds on, by the name under which every participant has it.

    ``digest`` pins the files of its folder, so that all start from the same; an embedded model's is filled in.
    """

    model: str = Field(description="name of an embedded model, or of one in every site.yaml's foundation_models")
    digest: str | None = Field(None, pattern=DIGEST, description="SHA-256 of its files; an embedded model's is known")

    @model_validator(mode="after")
    def _pinned(self) -> FoundationConfig:
        if self.model in EMBEDDED and self.digest is None:
            object.__setattr__(self, "digest", embedded_digest(self.model))
        if self.digest is None:
            raise ValueError(
                f"give the digest of {self.model} (consilia site foundation FOLDER prints it): participants must not "
                "start from different ones"
            )
        return self


class ModelConfig(Strict):
    """The network, by dotted path and keyword arguments. Every participant must list the path in allow_models.

    The key is ``class`` because NVFlare takes a nested ``path`` or ``name`` for a component of its own to build. With
    ``foundation`` the class gets that model as its first argument.
    """

    class_: str = Field(
        alias="class",
        pattern=r"^[A-Za-z_][\w.]*\.[A-Za-z_]\w*$",
        description="the network's dotted path, listed in every site's allow_models; a study chooses by the data",
    )
    args: dict[str, Any] = Field(default_factory=dict, description="the network's own arguments")
    foundation: FoundationConfig | None = Field(None, description="the pre-trained model that the network builds on")
    plain_seed: bool = Field(
        False, description="initial weights as a script has them after torch.manual_seed(seed), to compare with one"
    )

    def build(
        self,
        *,
        seed: int,
        allowed: Sequence[str],
        folders: Mapping[str, FoundationFolder],
        max_bytes: int | None = None,
    ) -> nn.Module:
        """The network with its initial weights, if this participant lists the class and has the foundation model.

        Args:
            seed: run seed.
            allowed: this participant's allow_models.
            folders: this participant's foundation_models.
            max_bytes: of the model and its buffers.

        Raises:
            LimitReached: the model is larger.
            ConfigError: the class is not listed, or the arguments do not fit.
            CheckpointError: the foundation model's weights are not there, or are others.
        """
        base = self.foundation
        foundation = None if base is None else load_foundation(base.model, base.digest, folders)
        return build_model(
            self.class_,
            self.args,
            seed=seed,
            plain_seed=self.plain_seed,
            allowed=allowed,
            foundation=foundation,
            max_bytes=max_bytes,
        )

    def build_at(self, site: SiteConfig, *, seed: int) -> nn.Module:
        """The same within what a site allows: its classes, its foundation models, its limit on the size."""
        return self.build(
            seed=seed,
            allowed=site.allow_models,
            folders=site.foundation_models,
            max_bytes=site.limits.max_model_bytes,
        )
