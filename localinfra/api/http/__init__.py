"""HTTP for every route: who may ask, bodies in, answers and errors out. Knows no handler."""
