"""Grammar constraints on the next token. Besides llama/, the only importer of llguidance."""
