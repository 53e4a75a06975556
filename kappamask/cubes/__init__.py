"""Scenes to the canonical cube. Imports `scenes` and `base`."""
