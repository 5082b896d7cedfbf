"""Layouts: boxes do not overlap, edges avoid boxes, data flows downwards, bands are in order."""

import itertools

import pytest

import graphnn as gn
from graphnn.pictures import draw
from tests.pictures.networks import ALL, Deep, Elman, Siamese, TuringMachine

CASES = [(n, options) for n in ALL for options in ({}, {"unroll": 3}, {"plan": True})]
CASES = [(n, options) for n, options in CASES if not (n is Siamese and "unroll" in options)]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0].__name__}{list(c[1])}")
def laid_out(request):
    network, options = request.param
    return draw(network(), **options).layout


def test_boxes_do_not_overlap(laid_out):
    for (j, a), (k, b) in itertools.combinations(laid_out.boxes.items(), 2):
        assert not a.meets(b), (laid_out.scene.boxes[j].title, laid_out.scene.boxes[k].title)


def test_edges_run_through_no_box(laid_out):
    scene = laid_out.scene
    for edge, route in zip(scene.edges, laid_out.routes, strict=True):
        points = route.samples()
        for key, rect in laid_out.boxes.items():
            slack = 2.0 if key in (edge.source, edge.target) else 0.5
            assert not any(rect.holds(p, slack) for p in points), scene.boxes[key].title


def test_edges_join_their_boxes(laid_out):
    for edge, route in zip(laid_out.scene.edges, laid_out.routes, strict=True):
        source, target = laid_out.boxes[edge.source], laid_out.boxes[edge.target]
        assert route.begin[1] == pytest.approx(source.y + source.height / 2)
        assert route.end[1] == pytest.approx(target.y - target.height / 2)
        assert abs(route.begin[0] - source.x) < source.width / 2
        assert abs(route.end[0] - target.x) < target.width / 2


def test_everything_is_inside_the_bounds(laid_out):
    for rect in laid_out.boxes.values():
        assert laid_out.left <= rect.x - rect.width / 2
        assert rect.x + rect.width / 2 <= laid_out.right
        assert rect.y - rect.height / 2 >= 0 and rect.y + rect.height / 2 <= laid_out.bottom
    for route in laid_out.routes:
        assert all(
            laid_out.left <= x <= laid_out.right and 0 <= y <= laid_out.bottom
            for x, y in route.samples()
        )


@pytest.mark.parametrize("network", [Elman, TuringMachine])
def test_data_flows_downwards_and_only_loops_go_up(network):
    layout = draw(network()).layout
    for edge in layout.scene.edges:
        down = layout.boxes[edge.source].y < layout.boxes[edge.target].y
        assert down != edge.back


def test_unrolled_copies_have_equal_layouts_side_by_side():
    layout = draw(TuringMachine(), unroll=3).layout
    first, second, third = (
        {b.twin: layout.boxes[k] for k, b in layout.scene.boxes.items() if b.column == n}
        for n in (1, 2, 3)
    )
    assert max(r.x for r in first.values()) < min(r.x for r in second.values())
    for k, rect in first.items():
        assert second[k].y == third[k].y == rect.y
        assert second[k].width == rect.width


def test_boxes_are_inside_their_bands():
    layout = gn.compile(Elman(), backend="torch").draw(plan=True).layout
    rects = {band.title: rect for band, rect in layout.bands}
    for key, box in layout.scene.boxes.items():
        if box.kind != "output":
            band = rects[layout.scene.bands[box.band].title]
            assert band.holds((layout.boxes[key].x, layout.boxes[key].y))
    tops = [rect.y for _, rect in layout.bands]
    assert tops == sorted(tops)


def test_a_long_chain_is_folded():
    layout = draw(Deep()).layout
    width, height = layout.right - layout.left, layout.bottom
    assert height < 3 * width


def test_pictures_are_deterministic():
    assert draw(TuringMachine()).svg() == draw(TuringMachine()).svg()
