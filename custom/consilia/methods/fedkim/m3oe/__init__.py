"""M3OE, the mixture of low-rank experts of FedKIM, as a tuner of the peft library.

Importing this package makes the type ``M3OE`` known to peft, so that ``get_peft_model``, ``save_pretrained`` and
``PeftModel.from_pretrained`` work as for its own adapters.
"""

from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

from consilia.methods.fedkim.m3oe.config import M3OEConfig, M3OEType
from consilia.methods.fedkim.m3oe.layer import M3OELayer
from consilia.methods.fedkim.m3oe.model import M3OEModel

# peft's register_peft_method takes only types of its own enumeration.
PEFT_TYPE_TO_CONFIG_MAPPING[M3OEType.M3OE] = M3OEConfig
PEFT_TYPE_TO_TUNER_MAPPING[M3OEType.M3OE] = M3OEModel
PEFT_TYPE_TO_PREFIX_MAPPING[M3OEType.M3OE] = M3OEModel.prefix

__all__ = ["M3OEConfig", "M3OELayer", "M3OEModel"]
