"""The cost model: seconds of synthetic work on a synthetic device; the work of real graphs."""

import json
import math

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.errors import DeviceError
from graphnn.planner.core import device_constants, work
from graphnn.planner.core.cost import (
    Device,
    Work,
    bound,
    lower_bound,
    peak_rate,
    rate,
    seconds,
    timed,
)

DEVICE = Device(
    "made up",
    "made up",
    copies=((100.0, 400.0), (200.0, 100.0)),
    products={"float32": ((10.0, 1000.0), (1000.0, 4000.0)), "bfloat16": ((1.0, 8000.0),)},
    pointwise=500.0,
    launch=1.0,
    barrier=0.25,
    units=8,
)


def test_time_is_the_larger_of_compute_and_memory_time_plus_latencies():
    assert seconds(DEVICE, flops=4000) == pytest.approx(1.0)
    assert seconds(DEVICE, flops=4000, bytes=50) == pytest.approx(1.0)
    assert seconds(DEVICE, flops=4000, bytes=300) == pytest.approx(3.0)
    assert seconds(DEVICE, bytes=400, launches=2, barriers=4) == pytest.approx(4.0 + 2.0 + 1.0)
    assert seconds(DEVICE, pointwise=1000, flops=4000) == pytest.approx(3.0)
    assert seconds(DEVICE) == pytest.approx(0.0)


def test_half_of_the_units_need_twice_the_time_and_extra_units_are_ignored():
    assert seconds(DEVICE, flops=4000, units=4) == pytest.approx(2.0)
    assert seconds(DEVICE, flops=4000, units=100) == pytest.approx(1.0)


def test_work_in_rounds_uses_the_cache_rate_and_slower_small_matmuls():
    assert seconds(DEVICE, bytes=400) == pytest.approx(4.0)
    assert seconds(DEVICE, bytes=400, rounds=4) == pytest.approx(1.0)
    assert seconds(DEVICE, bytes=400, launches=4) == pytest.approx(1.0 + 4.0)
    assert seconds(DEVICE, flops=1000) == pytest.approx(0.25)
    assert seconds(DEVICE, flops=1000, rounds=100) == pytest.approx(1.0)


def test_rates_are_interpolated_between_measured_sizes():
    pairs = DEVICE.products["float32"]
    assert rate(pairs, 1.0) == 1000.0
    assert rate(pairs, 1e9) == 4000.0
    assert rate(pairs, 100.0) == pytest.approx(2000.0)
    assert peak_rate(DEVICE, torch.bfloat16) == 8000.0
    assert peak_rate(DEVICE, torch.float64) == 4000.0  # not measured: float32 is used


def test_the_lower_bound_uses_the_peak_rate_and_no_latency():
    total = Work(flops=8000, bytes=50, launches=50, pointwise=1e6)
    assert lower_bound(DEVICE, total) == 2.0 and bound(DEVICE, total) == "products"
    assert (
        lower_bound(DEVICE, Work(bytes=500)) == 5.0 and bound(DEVICE, Work(bytes=500)) == "memory"
    )


def test_work_can_be_added_and_scaled():
    assert (Work(1, 2, 3, 4, 5) + Work(1, 1, 1, 1, 1)) * 2 == Work(4, 6, 8, 10, 12)
    assert timed(DEVICE, Work(flops=4000, launches=1)) == 2.0


@pytest.mark.parametrize("wrong", [{"flops": -1}, {"barriers": -2}, {"units": 0}, {"rounds": -1}])
def test_negative_work_is_refused(wrong):
    with pytest.raises(DeviceError, match="negative"):
        seconds(DEVICE, **wrong)


def test_a_device_round_trips_through_json():
    assert Device.of(json.loads(json.dumps(DEVICE.record()))) == DEVICE


@pytest.mark.parametrize(
    "change",
    [
        {"copies": ((1.0, 0.0),)},
        {"copies": ((1.0, float("nan")),)},
        {"copies": ()},
        {"products": {}},
        {"products": {"float32": []}},
        {"products": None},
        {"launch": -1.0},
        {"unknown": 1},
    ],
)
def test_invalid_constants_are_refused(change):
    record = {**DEVICE.record(), **change}
    if change.get("products") == {}:
        record.pop("products")
    with pytest.raises(DeviceError, match="graphnn calibrate"):
        Device.of(record)


def test_known_devices_are_valid_and_marked_as_unmeasured():
    for device in (*device_constants.KNOWN.values(), *device_constants.NAMED.values()):
        assert Device.of(device.record()) == device
        assert "not measured by us" in device.source
    assert device_constants.default("cuda", "NVIDIA H100 80GB HBM3").name == "NVIDIA H100 SXM"
    assert device_constants.default("cuda", "another", "sm_80").name == "NVIDIA A100 80GB"
    assert device_constants.default("cpu") is device_constants.CPU


class Elman(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc, self.rec = nn.Linear(3, 5), nn.Linear(10, 5)

    def graph(self, g):
        x, z = g.input("x", (3,), over="time"), g.state("z", (5,))
        z.next = torch.tanh(self.rec(torch.cat([self.enc(x), z])))
        g.output("y", z.next)


SIZES = {"time": 7, "batch": 2}


def loop_and_rest():
    plan = gn.compile(Elman()).plan
    whole, loop = plan.regions
    return plan.ir, whole, loop


def test_the_work_of_a_graph_equals_a_count_by_hand():
    ir, whole, loop = loop_and_rest()
    positions = 14
    assert work.of_nodes(ir, whole.nodes, SIZES).flops == 2 * positions * (3 * 5 + 5 * 5)
    inside = work.of_nodes(ir, loop.nodes, SIZES)
    assert inside.flops == 2 * positions * 25
    assert inside.pointwise == positions * 5 * (1 + 10)  # an addition and a tanh
    assert inside.launches == 3
    fused = work.through(ir, loop.nodes, SIZES)
    assert fused.bytes == 4 * (25 + positions * 5 * 2) and fused.flops == inside.flops


def test_a_stepwise_loop_pays_its_launches_at_every_step():
    ir, _, loop = loop_and_rest()
    launch_bound = Device("", "", ((1.0, 1e30),), {"float32": ((1.0, 1e30),)}, 1e30, launch=1.0)
    assert work.expected(launch_bound, ir, loop, SIZES) == pytest.approx(7 * 3)
    assert work.expected(launch_bound, ir, loop, SIZES, "resident") == pytest.approx(1)
    double = work.expected(launch_bound, ir, loop, {"time": 14, "batch": 2})
    assert double == pytest.approx(2 * 7 * 3)


def test_a_reduction_counts_the_elements_it_reads():
    g = gn.Graph("sums")
    x = g.input("x", (4,), over="slot")
    g.output("y", gn.sum(x, over="slot"))
    ir = gn.compile(g).plan.ir
    found = work.of_nodes(ir, list(ir.nodes), {"slot": 100, "batch": 3})
    assert found.pointwise == 3 * 100 * 4 and found.bytes == 4 * 4 * (300 + 3)


def test_a_library_layer_has_a_finite_predicted_cost():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = gn.nn.LSTM(4, 6, bidirectional=True, layer_norm=True)

        def graph(self, g):
            g.output("y", self.cell(g.input("x", (4,), over="time")))

    plan = gn.compile(Net()).plan
    for region in plan.regions:
        found = work.expected(device_constants.CPU, plan.ir, region, SIZES)
        assert math.isfinite(found) and found >= 0
