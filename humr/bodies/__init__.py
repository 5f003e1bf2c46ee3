"""Body models, and how they are seen."""
