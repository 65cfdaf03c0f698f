"""Answers without a model: the commonest class, and what can be drawn into the box that a segmenter is shown."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from consilia.data.dataset import SiteData, Split
from consilia.evaluation.shapes import ellipses
from consilia.federation.recorder import Recorder
from consilia.methods.tasks import TASKS, Network, Predictions
from consilia.methods.tasks.classification import LOGITS
from consilia.models.sam_segmenter import MaskPrompts
from consilia.record.study_result import VERSIONS
from consilia.study.baselines.common import Predict, Saved, Setting, final_models, site_metrics, training_sites

Draw = Callable[[Tensor, int, int], Tensor]
"""Boxes (B, 4), height and width -> masks (B, H, W) bool."""


def majority(setting: Setting, sites: list[SiteData], recorder: Recorder) -> Saved:
    """Always the commonest class: of all training cases for the global metric, of the site's own for the personal."""
    trainers = training_sites(sites)
    classes = sites[0].num_classes
    overall = _constant(torch.cat([site.train.labels for site in trainers]).bincount(minlength=classes))
    own = {site.site: _constant(site.train.labels.bincount(minlength=classes)) for site in trainers}
    shared = {site.site: site_metrics(site, overall) for site in sites}
    personal = {site.site: site_metrics(site, own[site.site]) for site in trainers}
    setting.keep("global", VERSIONS, sites, overall)
    for site in trainers:
        setting.keep("personal", VERSIONS, [site], own[site.site])
    for key in VERSIONS:
        recorder.final[key] = final_models(0, {}, shared, personal)
    return {}


def filled_box(setting: Setting, sites: list[SiteData], recorder: Recorder) -> Saved:
    """The prompt itself as the answer, every pixel of the box: what the oracle alone is worth."""
    return _shapes(_filled, setting, sites, recorder)


def ellipse(setting: Setting, sites: list[SiteData], recorder: Recorder) -> Saved:
    """The ellipse that fills the box: what the oracle is worth to somebody who knows that lesions are round."""
    return _shapes(ellipses, setting, sites, recorder)


def _shapes(draw: Draw, setting: Setting, sites: list[SiteData], recorder: Recorder) -> Saved:
    def predict(split: Split) -> Predictions:
        return _drawn(split, draw)

    by_site = {site.site: site_metrics(site, predict) for site in sites}
    setting.keep("global", VERSIONS, sites, predict)
    for key in VERSIONS:
        recorder.final[key] = final_models(0, {}, by_site, {})
    return {}


def _constant(counts: Tensor) -> Predict:
    """The commonest class whatever is shown; its loss is that of the best constant guess."""
    logits = ((counts + 1e-9) / counts.sum()).log().float()
    return lambda split: {LOGITS: logits.expand(len(split), -1)}


def _drawn(split: Split, draw: Draw) -> Predictions:
    height, width = split.labels.shape[1:]

    def decode(_: Tensor, prompts: MaskPrompts) -> Tensor:
        return draw(prompts.boxes, height, width).float()

    network = Network(lambda inputs: inputs, decode)
    return TASKS["segmentation"].predict(network, split.inputs, split.labels, split.case_ids)


def _filled(boxes: Tensor, height: int, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(dim=1)
    down, across = torch.arange(height)[:, None], torch.arange(width)
    return (across >= x1) & (across <= x2) & (down >= y1) & (down <= y2)
