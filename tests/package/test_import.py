"""What `import graphnn` takes: neither Triton nor torch.compile."""

import subprocess
import sys

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
import graphnn as gn
from graphnn.errors import BackendError

print("torch._dynamo" in sys.modules)
g = gn.Graph("leaky")
x, z = g.input("x", (3,), over="time"), g.state("z", (3,))
z.next = torch.tanh(z + x)
g.output("y", z.next)
x = torch.randn(2, 4, 3, requires_grad=True)
for backend in ("auto", "torch", "reference"):
    gn.compile(g, backend=backend)(x=x).sum().backward()
model = gn.compile(g)
model.profile(x=x)
assert "torch" in model.explain() and model.source()
for backend in ("triton", "interpret"):
    try:
        gn.compile(g, backend=backend)
    except BackendError as error:
        print(error)
"""


def test_without_triton_all_but_kernels_works_and_torch_compile_is_left_alone():
    command = [sys.executable, "-c", WITHOUT_TRITON]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    dynamo, *errors = done.stdout.strip().splitlines()
    said = "\n".join(errors)
    for backend in ("triton", "interpret"):
        assert f"backend '{backend}' runs Triton kernels, and Triton is not installed" in said
    assert said.count("pip install triton, or compile with backend='torch'") == 2
    assert dynamo == "False"
