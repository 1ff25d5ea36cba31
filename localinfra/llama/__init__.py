"""The only package that imports llama_cpp; every pointer is made, held and freed here."""
