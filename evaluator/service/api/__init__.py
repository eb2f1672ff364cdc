"""Routes of API version 1 and their shared state. Imports every other part of the service."""
