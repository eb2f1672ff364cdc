"""What a colorizer is worth: metrics, policies, protocol and registry. Never imports the trainer."""
