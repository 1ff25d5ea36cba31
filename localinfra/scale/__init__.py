"""One server of many processes: a gateway checks requests and hands them to replicas, each a whole
application. Knows no cluster: `ray_serve.py` is the one that starts processes and joins them.
"""
