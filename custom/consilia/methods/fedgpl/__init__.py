"""Fed-GPL, federated generative prompt learning: one generator writes a prompt for every image, the rest is frozen.

"Universal Efficient Multi-Center Medical Image Analysis" (github.com/cyldg/Fed-GPL, 2026), also called Federated
Generative Learning; the paper's venue is not verified. The generator itself is :mod:`consilia.models.prompt_generator`;
:class:`~consilia.models.prompted_vit.PromptedViT` and :class:`~consilia.models.prompted_sam.PromptedSam` carry it.
"""
