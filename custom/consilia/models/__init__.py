"""Models for local training, and the one function that builds them from a job's configuration."""
