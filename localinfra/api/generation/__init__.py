"""Fields and values shared by the text routes of all APIs. Knows no route."""
