"""Output images: previews, full-size exports, Lab TIFFs. Imports `service.images` and `service.inference`."""
