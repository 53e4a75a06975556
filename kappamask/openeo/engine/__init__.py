"""Process graphs on dask. Imports `openeo-processes-dask`."""
