"""`python -m trainer.shards`: webdataset shards with a manifest, from photos or for tars that others made."""
