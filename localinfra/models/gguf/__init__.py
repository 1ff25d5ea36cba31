"""GGUF files before anything loads them: headers read and judged. Reads no weights."""
