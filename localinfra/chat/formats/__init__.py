"""How a model writes content, reasoning and tool calls: one file a format. Text in, pieces out."""
