"""The API reference is made of docstrings: every public name has one, and pdoc can read them."""

import inspect

import pytest

import graphnn as gn
from graphnn import kernels

SPACES = {"gn": gn, "gn.nn": gn.nn, "gn.pictures": gn.pictures, "kernels": kernels}


def public():
    """Public names with what they name, methods of public classes included."""
    for space, module in SPACES.items():
        for name in module.__all__:
            thing = getattr(module, name)
            yield f"{space}.{name}", thing
            if inspect.isclass(thing):
                for key, member in vars(thing).items():
                    if not key.startswith("_") and (
                        callable(member) or isinstance(member, property)
                    ):
                        yield f"{space}.{name}.{key}", member
    for name, thing in vars(gn.errors).items():
        if (
            inspect.isclass(thing)
            and not name.startswith("_")
            and thing.__module__.endswith("errors")
        ):
            yield f"gn.errors.{name}", thing


NAMES = dict(public())


def test_every_public_name_has_a_docstring():
    assert len(NAMES) > 250
    things = {name: getattr(thing, "fget", thing) for name, thing in NAMES.items()}
    assert [name for name, thing in things.items() if not inspect.getdoc(thing)] == []


def test_pdoc_writes_the_reference(tmp_path):
    pdoc = pytest.importorskip("pdoc")
    pdoc.render.configure(docformat="numpy")
    with pytest.warns(UserWarning):  # of annotations that it cannot place
        pdoc.pdoc("graphnn", output_directory=tmp_path)
    page = (tmp_path / "graphnn.html").read_text()
    assert all(f'id="{name}"' in page for name in ("Graph.state", "compile", "Compiled.forward"))
