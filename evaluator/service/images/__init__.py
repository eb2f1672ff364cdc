"""From uploads to grey photos: decoding, EXIF, the store. Imports `evaluator.photos` and `evaluator.system`."""
