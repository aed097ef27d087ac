"""A model in diffusers' folder format, in and out, and where weights start."""
