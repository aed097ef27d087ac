"""How good samples are; knows no federation."""
