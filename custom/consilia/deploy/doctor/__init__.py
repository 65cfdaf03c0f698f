"""Examines an installed kit: findings, each with what to do."""
