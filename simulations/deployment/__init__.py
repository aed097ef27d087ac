"""Separate devices: certificates, `serve`, `join` and the process that tasks are forked from."""
