"""models.toml as frozen structs, and where in it a mistake is. Knows no model and no route."""
