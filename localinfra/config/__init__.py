"""models.toml as frozen structs, with errors that name the place. Knows no model and no route."""
