"""The service: colour a photo with suggested clicks, over HTTP and on a page."""
