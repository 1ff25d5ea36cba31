"""How many prompt tokens, drafted tokens and threads a step gets, from what steps take. Sees no
sequence, batch or backend."""
