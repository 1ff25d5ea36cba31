"""OpenAI's API, a file for an endpoint. Other APIs may build on these; these know no other."""
