"""Conversations that the server keeps for its page, in one SQLite file. Knows no HTTP, and of what
a conversation holds only where its words are."""
