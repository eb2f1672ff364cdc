"""Which networks a service loads where none are named."""

import logging

from evaluator import registry, weights

_log = logging.getLogger("chromaclick")


def names_to_load(colorizer: str, guide: str, tracking_uri: str | None) -> tuple[str, str]:
    """What a start loads: names that were given stay; for others the champions, or else the networks that ship.

    Champions come as a pair: while one of the two is missing, what was not named is the shipped one, and a line of
    the log says so. It stays so until the next start or switch: `shipped` is no alias that is looked up again.

    Args:
        colorizer: empty where none was named.
        guide: the same.
        tracking_uri: see `evaluator.registry.load`.

    Raises:
        ConnectionError: the registry does not answer.
    """
    if colorizer and guide:
        return colorizer, guide
    if weights.SHIPPED in (colorizer, guide):
        return colorizer or weights.SHIPPED, guide or weights.SHIPPED
    where = tracking_uri or registry.default_tracking_uri()
    named = {weights.COLORIZER: colorizer, weights.GUIDE: guide}
    missing = [name for name, given in named.items() if not given and not _has_champion(name, where)]
    if missing and weights.available():
        _log.info(
            "no champion of %s is registered: the networks that ship are used until a start finds champions",
            " and ".join(missing),
        )
        return colorizer or weights.SHIPPED, guide or weights.SHIPPED
    champions = [given or f"models:/{name}@{registry.CHAMPION}" for name, given in named.items()]
    return champions[0], champions[1]


def _has_champion(name: str, tracking_uri: str) -> bool:
    try:
        return registry.champion(tracking_uri, name) is not None
    except ValueError:  # no database, or no network of this name
        return False
