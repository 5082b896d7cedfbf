"""The compiled model: an nn.Module with its source's parameters, called on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from graphnn.backends.torch.program import Program
from graphnn.backends.torch.runtime.active_transforms import under_transform
from graphnn.frontend.feedback import Feedback
from graphnn.frontend.graph import Graph
from graphnn.frontend.mistakes import check_compilable
from graphnn.inspection.explain import explain
from graphnn.ir.graph import IR
from graphnn.planner.pipeline import Plan, Variant
from graphnn.runtime.call import options, read, wrapped
from graphnn.runtime.call.network import Network, require_program
from graphnn.runtime.generation.generate import generate
from graphnn.runtime.generation.result import Generation
from graphnn.runtime.streaming.step import State, Streaming

if TYPE_CHECKING:
    from graphnn.inspection.profile import Profile
    from graphnn.pictures.picture import Picture

Tensor = torch.Tensor


class Compiled(nn.Module):
    """A graph made callable, an nn.Module. Made by `gn.compile`.

    It has the parameters, buffers and submodules of its source under the same names, so
    `state_dict`, optimizers, `to`, `train` and the wrappers of torch work as on any module.

        model = gn.compile(Net())
        optimizer = torch.optim.Adam(model.parameters())
        y = model(x=torch.randn(8, 5, 16))                # (batch, time, features)
    """

    _network: Network
    _streaming: Streaming

    def __init__(self, network: Network):
        super().__init__()
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[name] = network.owner.__dict__[name]
        self.__dict__.update(_network=network, _streaming=Streaming(network))

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_streaming"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__["_streaming"] = Streaming(self._network)

    @property
    def backend(self) -> str:
        """The backend that was asked for: "auto", "torch", "triton" and so on."""
        return self._network.options.backend

    @property
    def training(self) -> bool:  # type: ignore[override]
        """Whether the source is in training mode."""
        network = self.__dict__.get("_network")
        return network.owner.training if network is not None else True

    @training.setter
    def training(self, mode: bool) -> None:
        if "_network" in self.__dict__:
            self._network.owner.training = mode

    def train(self, mode: bool = True) -> Compiled:
        """Set training or evaluation mode, also of the source's modules.

        Returns the model.

            y = model.train(False)(x=x)
        """
        super().train(mode)
        self._network.current()
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        network = self.__dict__.get("_network")
        if network is not None and name in network.owner.__dict__ and self._of_source(name):
            setattr(network.owner, name, value)
        else:
            super().__setattr__(name, value)

    def _of_source(self, name: str) -> bool:
        """Whether an attribute of the source is one of the model too: its graph may read it."""
        own = name in self.__dict__ or isinstance(getattr(type(self), name, None), property)
        return not own

    def __getattr__(self, name: str) -> Any:
        network = self.__dict__.get("_network")
        if network is not None and name in network.owner.__dict__:
            return getattr(network.owner, name)
        return super().__getattr__(name)

    def _apply(self, fn: Any, recurse: bool = True) -> Compiled:
        network = self._network
        before = network.floating()
        super()._apply(fn, recurse)
        # a model without parameters learns its new dtype only here
        network.moved = fn(torch.empty(0, dtype=before)).dtype
        network.forget()
        self.__dict__["_streaming"] = Streaming(network)
        network.current()
        return self

    def __prepare_scriptable__(self) -> NoReturn:
        wrapped.unsupported("torch.jit.script", "use torch.export.export(model, (), {'x': x})")

    def _replicate_for_data_parallel(self) -> NoReturn:
        wrapped.unsupported("DataParallel", "use DistributedDataParallel, one process per device")

    def forward(
        self,
        *args: Tensor,
        lengths: Mapping[str, Any] | None = None,
        state: Mapping[str, Tensor] | None = None,
        return_state: bool = False,
        record: bool | Sequence[str] = False,
        **inputs: Any,
    ) -> Any:
        """Run the graph on (batch, *axes, *shape) tensors, one per declared input.

        `lengths` gives, for an axis, each example's number of positions as (batch,) integers.
        `state` gives initial values of states, (batch, *axes, [delay slots,] *shape) by name.

        Returns one output as a tensor, several as a dict. With `return_state` a dict of the final
        states follows, with `record` a dict of the sequences of the named states (True: of all),
        (batch, *axes, *shape). Raises a CallError that names the argument which does not fit.

            y, state = model(x=x, lengths={"time": torch.tensor([5, 3])}, return_state=True)
        """
        wrapped.check_untraced(args, inputs)
        given = (args, inputs, lengths, state, return_state, record)
        return (
            wrapped.not_compiled(self._called, *given)
            if under_transform()
            else self._called(*given)
        )

    def _called(
        self,
        args: tuple[Tensor, ...],
        inputs: Mapping[str, Any],
        lengths: Mapping[str, Any] | None,
        state: Mapping[str, Tensor] | None,
        return_state: bool,
        record: bool | Sequence[str],
    ) -> Any:
        network = self._network
        wrapped.check_whole(network.owner)
        traced = network.current()
        ir = traced.ir
        call = read.read(ir, read.named(ir, args, inputs), lengths, state, network.device)
        names = read.states(ir, record)
        outputs, final, sequences = network.run(call, return_state, names, traced=traced)
        value = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        extras = [x for x, wanted in ((final, return_state), (sequences, record)) if wanted]
        return (value, *extras) if extras else value

    def initial_state(
        self,
        batch: int | None = None,
        over: str | None = None,
        lengths: Mapping[str, Any] | None = None,
        **inputs: Tensor,
    ) -> State:
        """The states before the first position, (batch, *axes, *shape) by name, for `step`.

        `over` is the axis to step along, by default the only one. Inputs that do not vary over it
        (an encoder's source) are given here once, with the `lengths` of their axes. What the steps
        need of them is computed here and kept with the states. Without these inputs, states whose
        initial values depend on them are left out, and every step takes the inputs and computes
        all that follows from them. `batch` is the number of examples, by default that of the
        inputs, or 1.

        Raises StepError if the graph cannot be streamed, CallError if an argument does not fit.

            state = model.initial_state(batch=8)
            y, state = model.step(state, x=x[:, 0])
        """
        return self._streaming.initial_state(batch, over, lengths, inputs)

    def step(
        self,
        state: Mapping[str, Tensor],
        over: str | None = None,
        lengths: Mapping[str, Any] | None = None,
        **inputs: Tensor,
    ) -> tuple[Any, State]:
        """Advance by one position: (outputs, states), from the states of the step before.

        Inputs that vary over the axis are given for one position, (batch, *shape). Other inputs
        were given to `initial_state`; or they are given here, whole, with the `lengths` of their
        axes, and what follows from them is computed at every step. Causal attention caches the
        earlier positions that it reads among the states; under `torch.no_grad()` no step copies
        them. States are never changed in place, so a step can be repeated from an older state.

        Raises StepError if the graph reads later positions, CallError if an argument does not fit.

            state = model.initial_state(batch=8)
            with torch.no_grad():
                for t in range(5):
                    y, state = model.step(state, x=x[:, t])   # y (batch, features)
        """
        return self._streaming.step(state, over, lengths, inputs)

    def parts(self, axis: str) -> tuple[Compiled | None, Compiled]:
        """The model split for streaming: what does not vary over an axis, or None, and the rest.

        The outputs of the first are inputs of the second. Both are models on the parameters of
        this model.

            encoder, decoder = model.parts("target")
        """
        invariant, steps = self._streaming.parts(axis)
        return None if invariant is None else Compiled(invariant), Compiled(steps)

    @property
    def feedback(self) -> tuple[Feedback, ...]:
        """The outputs that are fed back as inputs when the model generates: see `g.feedback`."""
        return self._network.current().feedback

    def generate(
        self,
        *,
        start: int | Tensor,
        stop: int | None = None,
        max_steps: int = 100,
        beam: int | None = None,
        length_penalty: float = 0.0,
        choose: str | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        lengths: Mapping[str, Any] | None = None,
        record: Sequence[str] = (),
        progress: bool = False,
        **inputs: Tensor,
    ) -> Generation:
        """Generate symbols; each is chosen from an output and is the next input (`g.feedback`).

        `start` is the first symbol, or (batch,) or (batch, n) of them. An example ends at the
        symbol `stop`, or after `max_steps`. Symbols are chosen one at a time: the most probable, or
        a random one if `choose` is "sample" (by default what `g.feedback` says); `temperature`,
        `top_k`, `top_p` and `generator` belong to sampling. With `beam` they are found by a beam
        search of that width; `length_penalty` is the exponent of its score. `inputs` and `lengths`
        are those of a call, without the input that is fed back; an input over the generated axis is
        read one position per step. `record` names outputs and states whose values at every step are
        returned in `record` of the result.

        Raises GenerateError if the graph names no feedback or an argument does not fit, StepError
        if it cannot be streamed.

            found = model.generate(start=BOS, stop=EOS, source=source, beam=4)
            found.tokens                                  # (batch, steps) int64
        """
        return generate(
            self._streaming,
            inputs,
            start=start,
            stop=stop,
            max_steps=max_steps,
            beam=beam,
            length_penalty=length_penalty,
            choose=choose,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            generator=generator,
            lengths=lengths,
            record=record,
            progress=progress,
        )

    @property
    def ir(self) -> IR:
        """The checked graph, before planning. Do not change it."""
        return self._network.ir

    @property
    def plan(self) -> Plan:
        """The plan of a call without lengths and initial state. Do not change it."""
        return self.plan_for()

    def plan_for(
        self, *, lengths: Sequence[str] = (), device: str | None = None, **variant: Any
    ) -> Plan:
        """The plan of a kind of call. Do not change it.

        `lengths` names the axes for which the call gives lengths. `device` is "cpu" or "cuda", by
        default that of the parameters; a GPU need not exist. `variant` are further fields of
        `graphnn.planner.pipeline.Variant`.

            model.plan_for(lengths=("time",), device="cuda").decisions
        """
        return self._network.plan(self._variant(lengths, device, variant))

    def program(
        self, *, lengths: Sequence[str] = (), device: str | None = None, **variant: Any
    ) -> Program:
        """The generated program of a kind of call, with the arguments of `plan_for`.

        It is generated if no such call was made before. Raises BackendError for the reference
        backend, which generates none. Do not change it.

            print(model.program(lengths=("time",)).sources())
        """
        require_program(self._network.options)
        return self._network.program(self._variant(lengths, device, variant))

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs generated so far, one per kind of call, in order."""
        return tuple(dict.fromkeys(self._network.programs.values()))

    def passes(
        self,
        over: str | None = None,
        *,
        lengths: Sequence[str] = (),
        device: str | None = None,
        **variant: Any,
    ) -> list[tuple[str, IR]]:
        """The graph after each pass, in order, as pairs of the pass's name and the graph.

        The name of a pass on a part has that part in front: "loop h, backward: simplify" is a pass
        on the derived backward of the loop of h. With `over`, the passes that make the graph of one
        step along that axis follow: see `step`. The other arguments are those of `plan_for`. The
        model is planned and its code generated once more; what was generated before stays.

            for name, ir in model.passes():
                print(f"after {name}: {ir}")
        """
        found = self._network.passes(self._variant(lengths, device, variant))
        return found + (self._streaming.passes(over) if over is not None else [])

    def _variant(self, lengths: Sequence[str], device: str | None, rest: dict[str, Any]) -> Variant:
        """The variant of a kind of call."""
        network = self._network
        target = network.target if device is None else network.target_of(torch.device(device))
        return Variant(frozenset(lengths), **{"target": target, **rest})

    def source(self) -> str:
        """The code generated for a call without lengths, forward and backward.

        Raises BackendError for the reference backend, which generates none.

            print(model.source())
        """
        return self.program().sources()

    def explain(self, measure: Mapping[str, Tensor] | None = None, **variant: Any) -> str:
        """What runs before, in and after each loop, how, and why, as text.

        `lengths=("time",)` explains a call that gives lengths of these axes, `device="cuda"` a call
        on a GPU, which need not exist: see `plan_for`. `measure` are inputs to time the model on;
        the measured times then follow, next to those that the cost model expects.

            print(model.explain(measure={"x": x}))
        """
        plan, chosen = self.plan_for(**variant), self._network.options
        target = self._variant((), variant.get("device"), {}).target
        program = None if chosen.backend == "reference" else self.program(**variant)
        text = explain(plan, program, chosen.backend_for(target))
        if measure is None:
            return text
        return f"{text}\nmeasured, next to what the cost model expects:\n{self._profile(measure)}"

    def profile(
        self,
        *,
        lengths: Mapping[str, Any] | None = None,
        backward: bool | None = None,
        **inputs: Tensor,
    ) -> Profile:
        """Time each part of a call on these inputs: see `graphnn.runtime.profiling.profile`.

        Printed, the result is a table; its `rows` are the figures.

            print(model.profile(x=x, backward=False))
        """
        return self._profile(inputs, lengths, backward)

    def _profile(self, inputs: Mapping[str, Tensor], *options: Any) -> Profile:
        from graphnn.runtime.profiling import profile  # profiles compile a model, to time calls

        return profile(self, inputs, *options)

    def draw(self, path: Any = None, unroll: Any = None, plan: bool = False) -> Picture:
        """A picture of the network: see `graphnn.pictures.draw`. Saved if `path` is given.

        Raises PictureError if matplotlib or igraph is missing, AxisError for an unknown axis.

            picture = model.draw(plan=True)               # shows itself in a notebook
        """
        from graphnn.pictures import draw

        return draw(self, path, unroll, plan)


def network_of(model: Compiled) -> Network:
    """The network of a compiled model, for tools of graphnn that need its source or its traces.

    It is no attribute with a public name: a module may have a submodule called `network`.
    """
    return model._network


def compile(
    source: nn.Module | Graph,
    backend: str = "auto",
    *,
    skip: Sequence[str] = (),
    recompute: bool | None = None,
    float32: str | None = None,
    tune: bool = True,
    target: str | None = None,
) -> Compiled:
    """Check, plan and compile a graph, or a module with a `graph(self, g)` method.

    Arguments:

    - `backend`: "auto" (kernels on CUDA, PyTorch elsewhere), "triton" (loops as generated kernels),
      "torch", "interpret" (the kernels run by Triton's interpreter on a CPU: slow, for proofs),
      "ptx" (the kernels compiled for a GPU and their PTX executed on a CPU: slower still) or
      "reference" (the definition, evaluated position by position).
    - `skip`: names of passes to leave out. The result is the same, slower.
    - `recompute`: True recomputes pointwise values in the backward instead of saving them, and lets
      kernels draw their noise and attention its dropout, which then is nowhere in memory. False
      saves all. None takes the faster.
    - `float32`: how kernels multiply float32: "ieee" (plain multiply-adds), "tf32x3" (three TF32
      products), "tf32" (one), or None, which follows torch's setting for CUDA, made by
      torch.set_float32_matmul_precision or torch.backends.cuda.matmul.fp32_precision. Matrix
      products run by torch always follow that.
    - `tune`: on a GPU, time the execution strategies of a loop and the launches of a kernel at the
      first call, and remember the fastest. Strategies differ in rounding. If false, the cost model
      chooses, and the choice is the same everywhere.
    - `target`: the GPU that backends "ptx" and "interpret" plan for: "sm_75", "sm_80" (A100),
      "sm_86", "sm_89" or "sm_90" (H100, H200). None takes the GPU at hand, or else "sm_90".

    Raises GraphError if the graph is wrong, BackendError for an argument that has no such value.
    Backend "ptx" raises PtxFault or PtxRace if a compiled kernel is wrong.

        model = gn.compile(Net())
        y = model(x=torch.randn(8, 100, 16))              # (batch, time, features)
    """
    check_compilable(source)
    chosen = options.checked(backend, skip, recompute, float32, tune, target)
    return Compiled(Network(source, chosen))
