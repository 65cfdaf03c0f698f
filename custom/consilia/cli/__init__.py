"""Floor 4: what a person types."""

from consilia.cli.app import app

__all__ = ["app"]
