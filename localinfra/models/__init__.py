"""Which models there are, where their files are and which are in memory. Never how one computes."""
