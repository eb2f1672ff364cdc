"""The numerics: pure tensor functions over torch. No config, no files, no network; `bench*.py` are programs."""
