"""Damage to the tiny models that tests write."""

from collections.abc import Callable

from models.tiny_gguf import TinyModel, Value


def setting(key: str, value: Value) -> Callable[[TinyModel], object]:
    return lambda model: model.metadata.__setitem__(key, value)


def dropping(name: str) -> Callable[[TinyModel], object]:
    def drop(model: TinyModel) -> None:
        model.tensors = [tensor for tensor in model.tensors if tensor.name != name]

    return drop
