"""localinfra: GGUF chat models on your own machine, behind the routes that OpenAI clients call."""

__version__ = "0.1.0"
