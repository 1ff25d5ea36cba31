"""Reads and checks the headers of GGUF files before anything loads them. Reads no weights."""
