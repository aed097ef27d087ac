"""Many runs from one file: grids, named cases and seeds, and what they come to together."""
