"""Fields and values that routes for text have in common, whichever API. Knows no route."""
