"""Photos for training: shards, their order, decoding, and the embedded default."""
