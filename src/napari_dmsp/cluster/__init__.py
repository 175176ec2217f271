"""Lazy arrays of restored parts, zarr folders that are filled part by part, and who computes."""
