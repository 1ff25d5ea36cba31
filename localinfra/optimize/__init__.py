"""Faster weights for this machine: measures other types of the same weights, keeps a better one.

`bench` measures, with `exact`, `loss` and `speed`; `choose` decides on the figures; `store` keeps
decisions. `worker` does all of it in its own process, which `run` starts. Serves nothing.
"""
