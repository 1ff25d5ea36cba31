"""Anthropic's Messages API: its shapes ↔ the words of chat/. Knows no other API."""
