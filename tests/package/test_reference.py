"""The API reference: every public name has a docstring and pdoc can render them."""

import inspect

import pytest

import graphnn as gn
from graphnn import kernels

SPACES = {"gn": gn, "gn.nn": gn.nn, "gn.pictures": gn.pictures, "kernels": kernels}


def public():
    """Yields public names and their objects, including methods of public classes."""
    for space, module in SPACES.items():
        for name in module.__all__:
            item = getattr(module, name)
            yield f"{space}.{name}", item
            if inspect.isclass(item):
                for key, member in vars(item).items():
                    if not key.startswith("_") and (
                        callable(member) or isinstance(member, property)
                    ):
                        yield f"{space}.{name}.{key}", member
    for name, item in vars(gn.errors).items():
        if (
            inspect.isclass(item)
            and not name.startswith("_")
            and item.__module__.endswith("errors")
        ):
            yield f"gn.errors.{name}", item


NAMES = dict(public())


def test_every_public_name_has_a_docstring():
    assert len(NAMES) > 250
    items = {name: getattr(item, "fget", item) for name, item in NAMES.items()}
    assert [name for name, item in items.items() if not inspect.getdoc(item)] == []


def test_pdoc_renders_the_reference(tmp_path):
    pdoc = pytest.importorskip("pdoc")
    pdoc.render.configure(docformat="numpy")
    with pytest.warns(UserWarning):  # pdoc warns about annotations that it cannot resolve
        pdoc.pdoc("graphnn", output_directory=tmp_path)
    page = (tmp_path / "graphnn.html").read_text()
    assert all(f'id="{name}"' in page for name in ("Graph.state", "compile", "Compiled.forward"))
