"""The bound, measured: experiments whose answers can be computed."""
