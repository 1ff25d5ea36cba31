"""The language of messages: text in, text out. No model, no engine, no HTTP."""
