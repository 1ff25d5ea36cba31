"""HTTP as every route needs it: who may ask, bodies in, answers and errors out. Knows no route."""
