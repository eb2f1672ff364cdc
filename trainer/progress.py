"""How far a training is: all state beside the networks'."""

from dataclasses import dataclass, field


@dataclass
class Progress:
    """All state of the loop beside the networks'; saved and restored whole."""

    stage: int = 0
    """Index of the present stage."""
    stage_images: int = 0
    """Photos seen in this stage."""
    images_seen: int = 0
    """Photos seen in the whole training: the position in the stream that every random draw depends on."""
    skipped_steps: int = 0
    """Steps that were left out because a loss or gradient was not finite."""
    broken_in_row: dict[str, int] = field(default_factory=dict)
    """The latest of those in each phase, without a good step of that phase between."""
    skipped_photos: int = 0
    """Unreadable photos that all readers have replaced."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """Validation metrics after each stage, with images_seen."""
