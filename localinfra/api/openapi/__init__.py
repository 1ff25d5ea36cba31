"""The OpenAPI document of this server, made from its routes and the structs they read and write.

Knows no model and no running server: the document of a version is always the same.
"""
