"""OpenAI's API, a file per endpoint. Other APIs may use these files; these know no other API."""
