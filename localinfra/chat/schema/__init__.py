"""Clients' JSON Schemas → schemas that llguidance can enforce. Pure; compiles nothing."""
