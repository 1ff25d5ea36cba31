"""HTTP for every route: access checks, bodies in, responses and errors out. Knows no handler."""
