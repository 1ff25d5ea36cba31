"""The parts of `scripts/gpu_check`: what it carries, compiles, tries and measures.

Each part runs in a process of its own and hands back rows; none of them is imported by the server.
"""
