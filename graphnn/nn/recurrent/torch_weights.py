"""Conversion of weights from and to `torch.nn`: `weight_ih_l0` there is `l0.weight_ih` here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import nn
from typing_extensions import Self

from graphnn.errors import UnsupportedError
from graphnn.nn.recurrent.layers import Recurrent

# options that affect initial weights only
STARTS = frozenset({"orthogonal", "forget_bias"})


class TorchRecurrent(Recurrent):
    """A recurrent module with a counterpart in `torch.nn`, including layers and directions.

    `shared` are the options with the same name in torch. `fixed` are the option values with which
    both compute the same.
    """

    torch_class: ClassVar[Any]
    shared: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[dict[str, Any]] = {}

    @classmethod
    def from_torch(cls, module: nn.RNNBase, **options: Any) -> Self:
        """A module with the sizes, weights and dtype of a torch module, plus `options`."""
        known = {**cls.fixed, **{name: getattr(module, name) for name in cls.shared}}
        made = cls(
            module.input_size,
            module.hidden_size,
            module.num_layers,
            module.bidirectional,
            module.dropout,
            module.bias,
            **{**known, **options},
        )
        weight = next(module.parameters())
        made.to(weight.device, weight.dtype).load_torch(module)
        return made.train(module.training)

    def load_torch(self, module: nn.RNNBase) -> None:
        """Copy the weights of a torch module. Parameters that torch lacks keep their values."""
        theirs = module.state_dict()
        weights = dict(zip(_own_names(theirs), theirs.values()))
        if unknown := set(weights) - set(self.state_dict()):
            raise UnsupportedError(
                f"this {type(self).__name__} lacks parameters for some weights of the torch module",
                got=f"weights {sorted(unknown)}",
                wanted="the same number of layers, directions, bias and projection",
                fix=f"construct it by {type(self).__name__}.from_torch(module)",
            )
        self.load_state_dict({**self.state_dict(), **weights})

    def to_torch(self) -> nn.RNNBase:
        """The torch module with the same weights and batch_first=True.

        Raises UnsupportedError if an option is set that torch lacks.
        """
        self._check_torch_has_it()
        made = self.torch_class(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            bias=self.bias,
            batch_first=True,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
            **{k: self.options[k] for k in self.shared if k in self.options},
        )
        weight, names, own = next(self.parameters()), list(made.state_dict()), self.state_dict()
        made.to(weight.device, weight.dtype)
        made.load_state_dict({k: own[n] for k, n in zip(names, _own_names(names))})
        return made.train(self.training)  # type: ignore[no-any-return]

    def _check_torch_has_it(self) -> None:
        used = {**self.options, "zoneout": self.zoneout}
        same = STARTS | {*self.shared, *(k for k, v in self.fixed.items() if used.get(k) == v)}
        if extra := {k: v for k, v in used.items() if v and k not in same}:
            raise UnsupportedError(
                f"torch.nn.{self.torch_class.__name__} cannot compute the same as this module",
                got=", ".join(f"{k}={v!r}" for k, v in extra.items()),
                wanted="a module without the options that torch lacks",
                fix="keep this module: a compiled graph is a torch module too",
            )


def _own_names(weights: Iterable[str]) -> list[str]:
    """The names in graphnn of the weights of a torch module."""
    parts = (name.rpartition("_l") for name in weights)
    return [f"l{cell}.{weight}" for weight, _, cell in parts]
