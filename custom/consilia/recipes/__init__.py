"""Floor 4: NVFlare recipes, one per method: for the simulator, and exported as submit-ready job folders."""

from consilia.flare.recipe import ALLOWED_CLASSES, ConsiliaRecipe
from consilia.recipes.methods import FedAvgRecipe, FedGPLRecipe, FedKIMRecipe, FedKPerRecipe, FedProxRecipe

__all__ = [
    "ALLOWED_CLASSES",
    "ConsiliaRecipe",
    "FedAvgRecipe",
    "FedGPLRecipe",
    "FedKIMRecipe",
    "FedKPerRecipe",
    "FedProxRecipe",
]
