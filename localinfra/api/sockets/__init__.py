"""Connections and their bounds, below ASGI; imports uvicorn. Knows no route and no model."""
