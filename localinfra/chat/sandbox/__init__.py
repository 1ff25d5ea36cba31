"""Runs templates that nobody vouches for, within limits. Knows no message and no format."""
