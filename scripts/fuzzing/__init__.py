"""What `scripts/fuzz` sends to a server, and how it judges what comes back.

`generator` makes an attempt from a seed and a number, from valid requests (`seeds`), schemas
(`schemas`) and damage (`values`, `wire`); `client` sends it, `judging` finds faults, `shrinking`
makes them small. Knows the server by its OpenAPI document only.
"""
