"""Which models exist, where their files are and which are in memory. Not how a model computes."""
