"""``python -m consilia.cli``."""

from consilia.cli.app import entry

entry()
