"""Prompts → pictures; with embed/ the only importer of torch. Knows no HTTP."""
