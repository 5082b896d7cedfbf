"""The checker accepts kernels without faults, and names each fault put into one line of them."""

import importlib.util
import re
import time
from pathlib import Path

import pytest
import torch

from graphnn.kernels import simulate
from graphnn.kernels.interpreter import interpreter
from tests.kernels.simulate import sound

SEEDS = range(5)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int32]


def numbers(*shape, dtype=torch.float32):
    """Small integers, which are exact in every dtype."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def double(kernels=sound, n=10, x=None, out=None, **options):
    x = numbers(n) if x is None else x
    out = torch.empty(n) if out is None else out
    options = {"outputs": ["out"], **options}
    return simulate.run(kernels.double, (3,), x, out, n, SIZE=4, **options), x, out


def running(kernels=sound, dtype=torch.float32, shape=(5, 2, 4), **options):
    x = numbers(*shape, dtype=dtype)
    out, saved = torch.empty_like(x), torch.empty_like(x)
    options = {"outputs": ["out", "saved"], **options}
    T, ROWS, COLUMNS = shape
    simulate.run(kernels.running, (1,), x, out, saved, T, ROWS=ROWS, COLUMNS=COLUMNS, **options)
    return x, out, saved


def together(kernels=sound, dtype=torch.float32, programs=4, steps=4, **options):
    x = numbers(steps, programs * 4, dtype=dtype)
    out, slots = torch.empty_like(x), numbers(2, programs * 4, dtype=dtype)
    count = torch.zeros(1, dtype=torch.int32)
    wide = getattr(sound.tl, str({torch.bfloat16: torch.float32}.get(dtype, dtype))[6:])
    options = {"outputs": ["out"], "threads": True, **options}
    sizes = {"PROGRAMS": programs, "SIZE": 4, "WIDE": wide}
    arguments = (x, out, slots, count, steps)
    return simulate.run(kernels.together, (programs,), *arguments, **sizes, **options), x, out


def locked(kernels, seed=0, threads=True):
    x, best = torch.arange(16, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    lock = torch.zeros(1, dtype=torch.int32)
    simulate.run(kernels.locked, (4,), x, best, lock, SIZE=4, threads=threads, seed=seed)
    assert best == 15


@pytest.fixture
def changed(tmp_path):
    """The sound kernels with one line changed, or left out."""

    def change(old, new="pass"):
        source = Path(sound.__file__).read_text()
        assert source.count(old) == 1
        path = tmp_path / "faulty.py"
        path.write_text(source.replace(old, new))
        spec = importlib.util.spec_from_file_location("faulty", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return change


def raises(fault, message):
    return pytest.raises(fault, match=re.escape(message))


class TestSound:
    @pytest.mark.parametrize("threads", [False, True])
    @pytest.mark.parametrize("n", [1, 10, 12])
    def test_pointwise(self, n, threads):
        report, x, out = double(n=n, threads=threads)
        assert torch.equal(out, 2 * x)
        assert (report.kernel, report.programs, report.loads) == ("double", 3, 3)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int32], ids=str)
    def test_loop(self, dtype):
        x, out, saved = running(dtype=dtype)
        assert torch.equal(out, x.cumsum(0).to(dtype))
        assert torch.equal(saved, out * out)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("seed", SEEDS)
    def test_cooperative(self, seed, dtype):
        report, x, out = together(dtype=dtype, seed=seed)
        y = [x[0]]
        for x_t in x[1:]:
            y.append(x_t - y[-1].max())
        assert torch.equal(out, torch.stack(y))
        assert report.turns > report.programs, "programs took turns"

    def test_the_seed_decides_the_order(self):
        turns = [together(seed=seed)[0].turns for seed in SEEDS]
        assert turns == [together(seed=seed)[0].turns for seed in SEEDS]
        assert len(set(turns)) > 1

    def test_unordered_atomics_are_no_race(self):
        x, sums = numbers(3, 4), torch.zeros(4)
        simulate.run(sound.total, (3,), x, sums, SIZE=4)
        assert torch.equal(sums, x.sum(0))

    def test_strides_and_overlaps(self):
        double(x=numbers(5, 2).T)
        double(x=numbers(1).expand(10), n=1)
        whole = torch.empty(20)
        double(x=whole[:10].fill_(1), out=whole[10:])
        assert torch.equal(whole[10:], torch.full((10,), 2.0))

    def test_empty_tensors_and_no_programs(self):
        assert double(n=0, x=torch.ones(4)[2:2], out=torch.ones(4)[:0])[0].programs == 3
        for threads in (False, True):
            simulate.run(sound.total, (0,), torch.ones(4), torch.ones(4), SIZE=4, threads=threads)

    @pytest.mark.parametrize("threads", [False, True])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_locks(self, seed, threads):
        locked(sound, seed, threads)

    def test_is_fast(self):
        start = time.perf_counter()
        running(shape=(16, 16, 128))
        assert time.perf_counter() - start < 1


STORE = "tl.store(out + i, value * 2, mask=i < n)"


class TestBounds:
    @pytest.mark.parametrize(
        "new, message",
        [
            (
                STORE.replace("i < n", "i < n + 2"),
                "double: program 2 stores to memory out of bounds in 2 of 4 lanes, "
                "the first 1 past the end of 'out' of shape (10,)",
            ),
            (
                STORE.replace("out + i", "out + i + 3"),
                "double: program 1 stores to memory out of bounds in 1 of 4 lanes, "
                "the first 1 past the end of 'out' of shape (10,)",
            ),
            (
                STORE.replace("out + i", "out + i - 3"),
                "double: program 0 stores to memory out of bounds in 3 of 4 lanes, "
                "the first 3 before the start of 'out' of shape (10,)",
            ),
        ],
    )
    def test_stores(self, changed, new, message):
        with raises(simulate.OutOfBounds, message) as caught:
            double(changed(STORE, new))
        assert f"faulty.py:11: {new}" in str(caught.value)

    def test_loads(self, changed):
        with raises(simulate.OutOfBounds, "program 2 loads memory out of bounds in 2 of 4 lanes"):
            double(changed("value = tl.load(x + i, mask=i < n)", "value = tl.load(x + i)"))

    def test_atomics(self, changed):
        wide = changed("tl.atomic_add(sums + i", "tl.atomic_add(sums + 2 * i")
        with raises(simulate.OutOfBounds, "program 0 updates memory out of bounds in 2 of 4 lanes"):
            simulate.run(wide.total, (1,), numbers(4), torch.zeros(4), SIZE=4)

    def test_a_neighbour_in_the_same_memory_is_out_of_bounds(self, changed):
        whole = torch.zeros(30)
        wide = changed(STORE, STORE.replace("i < n", "i < n + 1"))
        with raises(simulate.OutOfBounds, "1 past the end of 'out'"):
            double(wide, x=whole[20:], out=whole[5:15])

    def test_gaps_of_a_view_are_out_of_bounds(self):
        with raises(simulate.OutOfBounds, "between the elements of 'x' of shape (10,)"):
            double(x=numbers(10, 2)[:, 0])

    def test_a_pointer_from_nowhere(self, changed):
        with raises(simulate.OutOfBounds, "at an address that comes from no argument"):
            double(changed(STORE, "tl.store(i.to(tl.pointer_type(tl.float32)), value)"))


class TestOutputs:
    def test_a_mask_too_narrow(self, changed):
        with raises(
            simulate.Unwritten,
            "double: no program stored 1 of 10 elements of output 'out', the first out[9]",
        ):
            double(changed(STORE, STORE.replace("i < n", "i < n - 1")))

    def test_a_missing_save(self, changed):
        kernels = changed("tl.store(saved + here, total * total)")
        message = "no program stored 40 of 40 elements of output 'saved', the first saved[0, 0, 0]"
        with raises(simulate.Unwritten, message):
            running(kernels)
        running(kernels, written=["out"])
        saved = running(kernels, written=False)[-1]
        assert saved.isnan().all()
        assert (running(kernels, dtype=torch.int32, written=False)[2] == 2**31 - 1).all()

    def test_a_read_before_the_store(self, changed):
        kernels = changed("total += tl.load(x + here)", "total += tl.load(out + here)")
        message = "running: program 0 loads out[0, 0, 0], an output that no program has stored yet"
        with raises(simulate.Uninitialised, message):
            running(kernels)

    def test_an_atomic_needs_a_value(self):
        with raises(simulate.Uninitialised, "total: program 0 updates sums[0], an output"):
            simulate.run(sound.total, (1,), numbers(4), torch.zeros(4), outputs=["sums"], SIZE=4)

    def test_given_as_tensors(self):
        out = torch.zeros(12)
        with raises(simulate.Unwritten, "2 of 12 elements of output 'out', the first out[10]"):
            double(out=out, outputs=[out])

    def test_must_be_arguments(self):
        with raises(ValueError, "double has no arguments ['result']"):
            double(written=["result"])
        with raises(ValueError, "not all outputs of double are among its tensors: x, out"):
            double(outputs=["result"])


RACE = (
    r"together: program \d (loads|stores to) slots\[[01], \d+\]( and \d+ more)?, which ("
    r"program \d (loaded|stored to), and nothing orders the two|"
    r"it stored to itself since its last tl.debug_barrier\(\))\n"
    r"  faulty.py:\d+: .*slot \+ .*\n  faulty.py:\d+: .*slot \+ .*"
)


class TestRaces:
    def test_views_of_other_widths_share_memory(self):
        out = torch.zeros(10, dtype=torch.float64)
        message = "program 1 loads x[4] and 3 more, which program 0 stored to"
        with raises(simulate.Race, message):
            double(x=out.view(torch.float32)[:10], out=out, outputs=[])

    def test_two_programs_store_to_one_element(self, changed):
        kernels = changed(
            "i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)",
            "i = tl.program_id(0) * (SIZE - 1) + tl.arange(0, SIZE)",
        )
        message = (
            "double: program 1 stores to out[3], which program 0 stored to, "
            f"and nothing orders the two\n  faulty.py:11: {STORE}\n  faulty.py:11: {STORE}"
        )
        with raises(simulate.Race, message):
            double(kernels)

    def test_two_lanes_store_to_one_element(self, changed):
        kernels = changed(STORE, "tl.store(out + i // 2, i, mask=i < n)")
        with raises(simulate.Race, "stores to out[0] from two lanes with different values"):
            double(kernels)

    def test_a_program_loads_what_it_stored_itself(self, changed):
        square = "tl.store(saved + here, total * total)"
        again = square.replace("total * total", "tl.load(out + here) * total")
        message = "loads out[0, 0, 0] and 7 more, which it stored to itself since its last "
        with raises(simulate.Race, message + "tl.debug_barrier()"):
            running(changed(square, again))
        running(changed(square, "tl.debug_barrier(); " + again))

    @pytest.mark.parametrize(
        "old, new",
        [
            ("while tl.atomic_cas(lock, 0, 1) == 1:", "if True:"),
            ("tl.atomic_cas(lock, 0, 1)", 'tl.atomic_cas(lock, 0, 1, sem="relaxed")'),
            ("tl.atomic_xchg(lock, 0)", 'tl.atomic_xchg(lock, 0, sem="relaxed")'),
        ],
    )
    def test_locks(self, changed, old, new):
        with raises(simulate.Race, " best[0], which program "):
            locked(changed(old, new))

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize(
        "old, new",
        [
            ("wait(count, t * PROGRAMS)", "pass"),
            ("slot = slots + (t % 2) * PROGRAMS * SIZE", "slot = slots"),
            ("tl.debug_barrier()\n    tl.atomic_add", "tl.atomic_add"),
            ('tl.atomic_add(count, 1, sem="release"', 'tl.atomic_add(count, 1, sem="relaxed"'),
            ('tl.atomic_add(count, 0, sem="acquire"', 'tl.atomic_add(count, 0, sem="relaxed"'),
            ('1, sem="release", scope="gpu"', '1, sem="release", scope="cta"'),
        ],
        ids=["no wait", "one slot", "no barrier", "no release", "no acquire", "block scope"],
    )
    def test_cooperative(self, changed, old, new, seed):
        with pytest.raises(simulate.Race, match=RACE):
            together(changed(old, new), seed=seed)

    def test_waiting_for_too_few_programs_is_found_in_some_order(self, changed):
        kernels = changed("wait(count, t * PROGRAMS)", "wait(count, t * PROGRAMS - 1)")
        caught = 0
        for seed in SEEDS:
            try:
                together(kernels, seed=seed)
            except simulate.Race:
                caught += 1
        assert caught >= 3

    def test_reads_before_the_store_that_came_first(self, changed):
        """The exchange buffer is an output: a read too early finds it unset, or races."""
        kernels = changed("wait(count, t * PROGRAMS)", "pass")
        for seed in SEEDS:
            with pytest.raises((simulate.Uninitialised, simulate.Race), match=r"slots\[0?1?, "):
                together(kernels, seed=seed, outputs=["out", "slots"])


class TestDeadlocks:
    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize(
        "old, new, value",
        [("arrive(count)", "pass", 0), ("wait(count, t * PROGRAMS)", "wait(count, t * 9)", 4)],
    )
    def test_no_program_can_continue(self, changed, old, new, value, seed):
        kernels = changed("        " + old, "        " + new)
        with raises(simulate.Deadlock, "together: no program can go on\n  program 0 ") as caught:
            together(kernels, seed=seed)
        text = str(caught.value)
        for program in range(4):
            assert f"  program {program} waits at count[0] = {value}, faulty.py:34: while" in text

    def test_a_program_that_left_early(self, changed):
        kernels = changed(
            "for t in range(1, T):", "for t in range(1, T - (tl.program_id(0) == 2).to(tl.int32)):"
        )
        with raises(simulate.Deadlock, "  program 2 has finished\n  program 3 waits at count[0]"):
            together(kernels)

    def test_a_lock_that_is_never_released(self, changed):
        with raises(simulate.Deadlock, "program 0 waits at lock[0] = 1, faulty.py:69: while"):
            locked(changed("tl.atomic_xchg(lock, 0)"))

    def test_in_order_programs_cannot_wait(self):
        with raises(simulate.Deadlock, "run with threads=True if programs wait") as caught:
            together(threads=False)
        assert "  program 1 has not begun\n" in str(caught.value)

    def test_waiting_for_a_value_that_is_already_there_is_no_deadlock(self, changed):
        again = "for _ in range(20): wait(count, t * PROGRAMS)"
        together(changed("wait(count, t * PROGRAMS)", again))


class TestChecking:
    def test_every_launch(self):
        x, out, twice = numbers(10), torch.empty(10), torch.empty(10)
        with simulate.checking({"double": ["out"]}) as reports:
            interpreter.launch(sound.double, (3,), x, out, 10, SIZE=4)
            interpreter.launch(sound.double, (3,), out, twice, n=10, SIZE=4, num_warps=4)
        assert torch.equal(twice, 4 * x)
        assert [r.kernel for r in reports] == ["double", "double"]

    def test_names_for_all_kernels_may_be_missing_from_some(self):
        with raises(simulate.Unwritten, "2 of 12"), simulate.checking(["out", "saved"]):
            interpreter.launch(sound.double, (3,), numbers(10), torch.empty(12), 10, SIZE=4)

    def test_later_launches_are_not_checked(self, changed):
        narrow = changed(STORE, STORE.replace("i < n", "i < n - 1"))
        with pytest.raises(simulate.Unwritten), simulate.checking(["out"]):
            interpreter.launch(narrow.double, (3,), numbers(10), torch.empty(10), 10, SIZE=4)
        interpreter.launch(narrow.double, (3,), numbers(10), torch.empty(10), 10, SIZE=4)

    @pytest.mark.parametrize("threads", [False, True])
    def test_other_errors_are_raised_unchanged(self, changed, threads):
        kernels = changed(STORE, "1 / 0")
        with pytest.raises(ZeroDivisionError):
            double(kernels, threads=threads)

    def test_grids_of_two_dimensions_name_both(self, changed):
        kernels = changed(
            "i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)",
            "i = tl.program_id(1) * SIZE + tl.arange(0, SIZE)",
        )
        with raises(simulate.Race, "program (1, 0) stores to out[0] and 3 more, which program (0,"):
            simulate.run(kernels.double, (2, 2), numbers(8), torch.empty(8), 8, SIZE=4)
