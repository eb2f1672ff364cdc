"""How a colorizer is learned: data, networks, losses, recipes, the loop, checkpoints, publishing."""
