"""humr: probabilistic 3D human pose and mesh recovery with normalizing flows."""
