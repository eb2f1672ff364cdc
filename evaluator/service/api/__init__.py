"""The routes of API version 1 and what they share. Imports everything else of the service."""
