"""Arrays, cubes and chunks to labels. Imports `networks` and `base`."""
