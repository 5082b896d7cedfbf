"""Where things stand: no box on another, no edge through one, data downwards, bands in order."""

import itertools

import pytest

import graphnn as gn
from graphnn.pictures import draw
from tests.pictures.networks import ALL, Deep, Elman, Siamese, TuringMachine

CASES = [(n, how) for n in ALL for how in ({}, {"unroll": 3}, {"plan": True})]
CASES = [(n, how) for n, how in CASES if not (n is Siamese and "unroll" in how)]


@pytest.fixture(scope="module", params=CASES, ids=lambda c: f"{c[0].__name__}{list(c[1])}")
def placed(request):
    network, how = request.param
    return draw(network(), **how).layout


def test_boxes_do_not_overlap(placed):
    for (j, a), (k, b) in itertools.combinations(placed.boxes.items(), 2):
        assert not a.meets(b), (placed.scene.boxes[j].title, placed.scene.boxes[k].title)


def test_edges_run_through_no_box(placed):
    scene = placed.scene
    for edge, route in zip(scene.edges, placed.routes, strict=True):
        points = route.samples()
        for key, rect in placed.boxes.items():
            slack = 2.0 if key in (edge.source, edge.target) else 0.5
            assert not any(rect.holds(p, slack) for p in points), scene.boxes[key].title


def test_edges_join_their_boxes(placed):
    for edge, route in zip(placed.scene.edges, placed.routes, strict=True):
        source, target = placed.boxes[edge.source], placed.boxes[edge.target]
        assert route.begin[1] == pytest.approx(source.y + source.height / 2)
        assert route.end[1] == pytest.approx(target.y - target.height / 2)
        assert abs(route.begin[0] - source.x) < source.width / 2
        assert abs(route.end[0] - target.x) < target.width / 2


def test_all_is_on_the_page(placed):
    for rect in placed.boxes.values():
        assert placed.left <= rect.x - rect.width / 2
        assert rect.x + rect.width / 2 <= placed.right
        assert rect.y - rect.height / 2 >= 0 and rect.y + rect.height / 2 <= placed.bottom
    for route in placed.routes:
        assert all(
            placed.left <= x <= placed.right and 0 <= y <= placed.bottom for x, y in route.samples()
        )


@pytest.mark.parametrize("network", [Elman, TuringMachine])
def test_data_flows_downwards_and_only_loops_go_up(network):
    made = draw(network()).layout
    for edge in made.scene.edges:
        down = made.boxes[edge.source].y < made.boxes[edge.target].y
        assert down != edge.back


def test_copies_stand_side_by_side_and_alike():
    made = draw(TuringMachine(), unroll=3).layout
    first, second, third = (
        {b.twin: made.boxes[k] for k, b in made.scene.boxes.items() if b.column == n}
        for n in (1, 2, 3)
    )
    assert max(r.x for r in first.values()) < min(r.x for r in second.values())
    for k, rect in first.items():
        assert second[k].y == third[k].y == rect.y
        assert second[k].width == rect.width


def test_boxes_lie_on_their_bands():
    made = gn.compile(Elman(), backend="torch").draw(plan=True).layout
    rects = {band.title: rect for band, rect in made.bands}
    for key, box in made.scene.boxes.items():
        if box.kind != "output":
            band = rects[made.scene.bands[box.band].title]
            assert band.holds((made.boxes[key].x, made.boxes[key].y))
    tops = [rect.y for _, rect in made.bands]
    assert tops == sorted(tops)


def test_a_long_chain_is_folded():
    made = draw(Deep()).layout
    wide, high = made.right - made.left, made.bottom
    assert high < 3 * wide


def test_the_same_network_is_drawn_the_same_again():
    assert draw(TuringMachine()).svg() == draw(TuringMachine()).svg()
