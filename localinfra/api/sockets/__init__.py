"""Connections and their limits, below ASGI; imports uvicorn. Knows no route and no model."""
