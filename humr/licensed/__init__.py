"""Licensed data and official weights; optional."""
