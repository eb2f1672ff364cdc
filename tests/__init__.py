"""A package, so that another distribution's `tests` cannot take the name."""
