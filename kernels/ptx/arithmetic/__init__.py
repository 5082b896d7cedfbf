"""The numerics of PTX instructions: pure functions on numpy arrays with one entry per thread.

Overflow and NaN are results like others here: callers work under `np.errstate(all="ignore")`.
"""

from .approximate import APPROXIMATIONS, Errors
from .formats import DTYPES
from .products import ADDERS, EXACT, Adder

__all__ = ["ADDERS", "APPROXIMATIONS", "DTYPES", "EXACT", "Adder", "Errors"]
