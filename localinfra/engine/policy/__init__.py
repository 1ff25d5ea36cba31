"""Prompt tokens, drafted tokens and threads of a step, from what steps take. Sees no sequence."""
