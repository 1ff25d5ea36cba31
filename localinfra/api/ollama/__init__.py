"""Ollama's API: its shapes ↔ the types of chat/, and its routes for managing models.

https://docs.ollama.com/api
"""
