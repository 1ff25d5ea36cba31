"""HTTP: request body → values for a model → response bytes. Runs and loads no model."""
