"""The experiments of `scorequilt theory`, one to a module."""
