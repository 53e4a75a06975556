"""Files: COG, STAC item, NetCDF, Zarr. Imports `composites` and below."""
