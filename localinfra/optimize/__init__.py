"""Weights that suit this machine: other types of the same weights, measured and kept if better.

`choose` decides over plain values; `bench` measures, with `exact`, `loss` and `speed`; `worker`
does it all in a process of its own, which `run` starts and listens to; `store` remembers. Serves
nothing.
"""
