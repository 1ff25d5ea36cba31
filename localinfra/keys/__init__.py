"""Named keys: whose they are, what they allow, and how much of it is left.

Owns their file and the arithmetic of their limits. Knows no HTTP, no model and never a key itself:
only hashes.
"""
