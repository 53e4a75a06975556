"""SAFE products: what their metadata say, and which file holds which band."""
