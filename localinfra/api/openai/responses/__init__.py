"""OpenAI's Responses API: its items, events and kept answers. Nothing outside knows its shapes."""
