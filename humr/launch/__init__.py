"""The environment and the notebooks."""
