"""Runs untrusted templates within limits. Knows no message and no format."""
