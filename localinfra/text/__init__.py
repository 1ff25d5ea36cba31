"""A text model: its loading, its requests and its turns in a conversation. No HTTP, no pointers."""
