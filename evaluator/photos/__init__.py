"""Photos in folders, zips and shards: listing, reading, decoding, cropping. Needs neither network nor trainer."""
