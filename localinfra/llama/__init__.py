"""The only package that imports llama_cpp; every pointer is made, held and freed here.

It can't be imported where llama.cpp doesn't run: that raises ModelUnavailable, with the remedy.
"""

from localinfra.llama_usable import check

check()
