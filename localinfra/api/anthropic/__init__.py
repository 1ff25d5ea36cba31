"""Anthropic's Messages API: its shapes ↔ the types of chat/. Knows no other API."""
