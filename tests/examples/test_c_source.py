"""The data of the bracket checker: the C scanner, the pieces, and the broken brackets."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from graphnn.examples import c_source

SOURCE = """\
/* a comment with an opener ( and
   two lines */
#include <stdio.h>
#define JOIN(a, b) \\
    do { a; b; } while (0)

static const char *text = "a \\"quoted\\" bracket ] and // no comment";
static char brace = '}', quote = '\\'', slash = '\\\\';

int main(int argc, char **argv) {
    int table[3] = {1, 2, (3 + argc)};  // a stray ) here
    for (int i = 0; i < 3; i++) {
        if (table[i] > (argc * 2)) { printf("%d\\n", table[(i)]); }
    }
    return argc / 2;
}
"""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "f(a[i], {b})",
        "'('",
        "'\\'' ()",
        "'\\\\' ()",
        '"}"',
        '"\\"}" ()',
        '"a\\\n)" ()',
        '"\\\\\n") "',
        "a // )\n()",
        "// a \\\n ) still the comment\n()",
        "// ends here \\\\x\n()",
        "/\\\n/ )\n()",
        "/* ) * / ] **/()",
        "/\\\n* ( *\\\n/ ()",
        "a / b * (c) / d",
        "L'(' + (1)",
        '"/*" () "*/"',
        "/* \" */ () /* ' */",
        SOURCE,
    ],
)
def test_well_formed(text: str) -> None:
    assert c_source.match(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        "(",
        "]",
        ")(",
        "([)]",
        "f(a[i)",
        '"\\\\")"',
        "'a' )",
        "// ( \n)",
        "// \\\n ( \n)",
        "/* ( */)",
        "a / (/ b",
        "/* never closed ()",
        '"never closed',
        "'never closed ()",
        '"a\n()',
    ],
)
def test_ill_formed(text: str) -> None:
    assert c_source.match(text) is None


def test_matched_pairs_are_mutual_and_of_the_same_kind() -> None:
    partner = c_source.match(SOURCE)
    assert partner
    assert all(partner[other] == at for at, other in partner.items())
    assert all(SOURCE[other] == c_source.PARTNER[SOURCE[at]] for at, other in partner.items())


def test_nesting() -> None:
    assert c_source.nesting("a") == 0
    assert c_source.nesting("()[]{}") == 1
    assert c_source.nesting('f(a[i], {"((("})') == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ten small files, each with different names."""
    for number in range(10):
        body = SOURCE.replace("table", f"table_{number}").replace("argc", f"count_{number}")
        (tmp_path / f"unit_{number}.c").write_text(body, encoding="utf-8")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "other.h").write_text("int f(int a[3]);\n" * 20, encoding="utf-8")
    (tmp_path / "notes.txt").write_text("( not C", encoding="utf-8")
    return tmp_path


def load(folder: Path, seed: int = 0) -> tuple[list[c_source.Sample], list[c_source.Sample]]:
    return c_source.load_samples(folder, train=200, held_out=60, lengths=(8, 80), seed=seed)


def test_labels_are_right_and_balanced(folder: Path) -> None:
    for samples in load(folder):
        assert all((c_source.match(s.text) is not None) == s.whole for s in samples)
        assert Counter(s.whole for s in samples)[True] * 2 == len(samples)
        assert len({s.text for s in samples}) == len(samples)


def test_labels_are_balanced_at_every_distance_and_depth(folder: Path) -> None:
    train, _ = load(folder)
    for key in ("distance", "depth"):
        whole = Counter(getattr(s, key) for s in train if s.whole)
        broken = Counter(getattr(s, key) for s in train if not s.whole)
        assert whole == broken


def test_samples_have_the_requested_lengths(folder: Path) -> None:
    train, held_out = load(folder)
    whole = [s for s in train + held_out if s.whole]
    assert all(8 <= len(s.text) <= 80 for s in whole)
    assert max(len(s.text) for s in train + held_out) <= 81
    assert all(1 <= s.distance <= 81 and s.depth >= 1 for s in train)


def test_the_same_seed_gives_the_same_samples(folder: Path) -> None:
    assert load(folder) == load(folder)
    assert load(folder) != load(folder, seed=1)


def test_held_out_texts_are_from_other_files(folder: Path) -> None:
    parts = load(folder)
    assert not {s.text for s in parts[0]} & {s.text for s in parts[1]}
    names = [{n for n in range(10) if any(f"_{n}" in s.text for s in part)} for part in parts]
    assert names[0] and names[1] and not names[0] & names[1]


def test_cuts_split_no_word_string_or_comment() -> None:
    scanned = c_source.scan(SOURCE)
    sampler, draw = c_source.PairSampler([SOURCE], 120), random.Random(0)
    pieces = {sampler.draw((8, 120), draw) for _ in range(300)} - {""}
    assert len(pieces) > 50
    for piece in pieces:
        start = SOURCE.index(piece)
        inside = [
            at
            for at in (start, start + len(piece))
            if any(begin < at < end for begin, end in scanned.spans)
        ]
        assert not inside or SOURCE.count(piece) > 1


def test_distant_pairs_are_drawn_as_often_as_near_ones() -> None:
    near, far = "f(a);\n" * 500, "g(" + "a + " * 20 + "b);\n"
    sampler, draw = c_source.PairSampler([near + far], 120), random.Random(0)
    pieces = [sampler.draw((16, 120), draw) for _ in range(400)]
    fraction = sum("g" in piece for piece in pieces) / sum(map(bool, pieces))
    assert 0.3 < fraction < 0.9


@pytest.mark.parametrize(
    ("edit", "change"),
    [("_delete", -1), ("_insert", 1), ("_flip", 0), ("_swap", 0)],
)
def test_edits_touch_brackets_only(edit: str, change: int) -> None:
    text, draw = "f(a[i], {b, c});", random.Random(0)
    partner = c_source.match(text)
    assert partner
    for victim in sorted(partner):
        broken, distance = getattr(c_source, edit)(text, partner, victim, draw)
        assert len(broken) == len(text) + change
        strip = str.maketrans("", "", c_source.BRACKETS)
        assert broken.translate(strip) == text.translate(strip)
        assert 1 <= distance <= len(text)


def test_distance_of_a_deleted_bracket_is_the_distance_to_its_partner() -> None:
    text = "(abc[d])"
    partner = c_source.match(text)
    assert partner
    assert c_source._delete(text, partner, 0, random.Random(0)) == ("abc[d])", 7)
    assert c_source._delete(text, partner, 6, random.Random(0)) == ("(abc[d)", 2)


def test_break_one_never_leaves_a_well_formed_text() -> None:
    draw = random.Random(0)
    broken = [c_source.break_one("()() \"(\" /* ] */ '{'", draw) for _ in range(300)]
    assert all(result is None or c_source.match(result[0]) is None for result in broken)
    assert sum(result is not None for result in broken) > 100
    assert c_source.break_one("no bracket", draw) is None


def test_encode() -> None:
    ids = c_source.encode("\t\n ~{é\x00")
    assert ids[:4] == [1, 2, 3, c_source.VOCABULARY - 1]
    assert ids[5:] == [c_source.OTHER, c_source.OTHER]
    every = {c_source.encode(char)[0] for char in c_source.ALPHABET}
    assert every == set(range(1, c_source.VOCABULARY))


def test_batches_have_every_sample_once_and_similar_lengths(folder: Path) -> None:
    train, _ = load(folder)
    batches = list(c_source.batches(train, 16))
    assert sum(len(batch.whole) for batch in batches) == len(train)
    assert sum(float(batch.whole.sum()) for batch in batches) == len(train) / 2
    for batch in batches:
        assert batch.char.dtype == batch.length.dtype == torch.long
        assert batch.char.shape == (len(batch.length), int(batch.length.max()))
    spread = [int(batch.length.max() - batch.length.min()) for batch in batches]
    assert sum(spread) <= 80


def test_collate_encodes_and_pads() -> None:
    samples = [c_source.Sample("(a)", True, 1, 2), c_source.Sample("(a", False, 1, 2)]
    batch = c_source.collate(samples)
    assert batch.char.tolist() == [c_source.encode("(a)"), [*c_source.encode("(a"), 0]]
    assert batch.length.tolist() == [3, 2] and batch.whole.tolist() == [1.0, 0.0]


def test_few_files_per_folder_of_generated_headers(tmp_path: Path) -> None:
    many = [tmp_path / f"{number:03}.h" for number in range(500)]
    assert len(c_source._thin(many, 60)) <= 60
    assert c_source._thin(many[:60], 60) == many[:60]


def test_installed_headers_are_the_default() -> None:
    files = c_source.find_files()
    assert len(files) > 20 and all(path.suffix == ".h" for path in files)


def test_read_files_drops_copies_and_stops_at_the_budget(folder: Path) -> None:
    (folder / "copy.c").write_text(SOURCE, encoding="utf-8")
    (folder / "copy_again.c").write_text(SOURCE, encoding="utf-8")
    files = c_source.find_files(folder)
    assert len(files) == 13
    assert len(c_source.read_files(files, seed=0)) == 12
    assert len(c_source.read_files(files, seed=0, budget=len(SOURCE) * 5)) <= 6


def test_too_little_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found 0 C files"):
        c_source.load_samples(tmp_path)
    for name in ("a.c", "b.c"):
        (tmp_path / name).write_text(f"int {name[0]}(void);\n", encoding="utf-8")
    with pytest.raises(ValueError, match="give more C source"):
        c_source.load_samples(tmp_path, train=100, held_out=10)
