"""The service: click-guided colorization over HTTP and on a web page."""
