"""Photos as people keep them: listed, read, decoded, cut to squares. Needs neither network nor trainer."""
