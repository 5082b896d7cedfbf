"""Weights to and from the recurrent modules of `torch.nn`: `weight_ih_l0` is `l0.weight_ih`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from typing_extensions import Self

from graphnn.errors import UnsupportedError
from graphnn.nn.recurrent import Recurrent


class TorchRecurrent(Recurrent):
    """A recurrent module that `torch.nn` has too, for all of its layers and directions."""

    torch_class: ClassVar[type[nn.RNNBase]]

    @classmethod
    def torch_options(cls, module: Any) -> dict[str, Any]:
        """The options of the cell that a torch module was made with."""
        return {}

    def torch_arguments(self) -> dict[str, Any]:
        """What the torch module is made with besides sizes, from this one's options.

        Raises UnsupportedError where no torch module computes the same.
        """
        unmatched = {k: v for k, v in self.options.items() if v and k not in _ONLY_AT_THE_START}
        unmatched |= {"zoneout": self.zoneout} if self.zoneout else {}
        if unmatched:
            self._refuse(", ".join(f"{k}={v!r}" for k, v in unmatched.items()))
        return {}

    def _refuse(self, got: str) -> None:
        raise UnsupportedError(
            f"torch.nn.{self.torch_class.__name__} cannot compute what this module does",
            got=got,
            wanted="a module without options that torch lacks",
            fix="keep this one: gn.compile makes it a torch module as it is",
        )

    @classmethod
    def from_torch(cls, module: nn.RNNBase, **options: Any) -> Self:
        """A module of the same sizes, weights and dtype as a torch one; `options` may be added."""
        made = cls(
            module.input_size,
            module.hidden_size,
            module.num_layers,
            module.bidirectional,
            module.dropout,
            module.bias,
            **{**cls.torch_options(module), **options},
        )
        weight = next(module.parameters())
        made.to(weight.device, weight.dtype).load_torch(module)
        return made.train(module.training)

    def load_torch(self, module: nn.RNNBase) -> None:
        """Copy the weights of a torch module; parameters that torch lacks keep their values."""
        result = self.load_state_dict(_renamed(module.state_dict()), strict=False)
        if result.unexpected_keys:
            raise UnsupportedError(
                f"this {type(self).__name__} has no place for some of the torch module's weights",
                got=f"weights {result.unexpected_keys}",
                wanted="a module of the same layers, directions, bias and projection",
                fix=f"make it with {type(self).__name__}.from_torch(module)",
            )

    def to_torch(self) -> nn.RNNBase:
        """The torch module of the same weights, with batch_first=True."""
        weight = next(self.parameters())
        made = self.torch_class(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            bias=self.bias,
            batch_first=True,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            **self.torch_arguments(),
        ).to(weight.device, weight.dtype)
        own = self.state_dict()
        made.load_state_dict({k: own[n] for k, n in zip(made.state_dict(), _names(made))})
        return made.train(self.training)


# options that only say how weights start
_ONLY_AT_THE_START = frozenset({"orthogonal", "forget_bias"})


def _names(module: nn.RNNBase) -> list[str]:
    """For each weight of a torch module its name here."""
    parts = (name.rpartition("_l") for name in module.state_dict())
    return [f"l{cell}.{weight}" for weight, _, cell in parts]


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = {name: name.rpartition("_l") for name in weights}
    return {f"l{cell}.{weight}": weights[name] for name, (weight, _, cell) in parts.items()}
