"""Training of colorizers and guides: data, networks, losses, recipes, the loop, checkpoints, export."""
