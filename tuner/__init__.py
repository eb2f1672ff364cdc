"""Ray Tune searches over the trainer's settings: which ones teach the colorizer best."""
