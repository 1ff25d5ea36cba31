"""localinfra: GGUF chat models on your own machine, behind the routes OpenAI's clients speak."""

__version__ = "0.1.0"
