"""Schemas of clients → ones that llguidance knows every word of. Pure; compiles nothing."""
