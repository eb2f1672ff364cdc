"""Uploaded photos: decoding, EXIF, storage. Imports `evaluator.photos` and `evaluator.system`."""
