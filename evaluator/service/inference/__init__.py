"""The networks at work: runtimes, batching, suggestions. Imports the registry and `service.images`."""
