"""The open world: made-up people in front of made-up cameras, with exact ground truth."""
