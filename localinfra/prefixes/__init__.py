"""Prefixes that outlive their engine: in memory while a model is unloaded, and in files with
`disk_cache`. Owns these files. Knows neither cells nor models, and trusts no file."""
