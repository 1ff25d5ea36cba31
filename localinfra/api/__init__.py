"""HTTP: a body → values for a model → the bytes of an answer. Computes and loads nothing."""
