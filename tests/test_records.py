"""Records: one table in every form, and what is refused."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.data import records
from jaxllm.errors import DataError

ROWS = [
    {"label": "ham", "text": 'He said "no", twice'},
    {"label": "spam", "text": "Grüße\tund 100 €"},
]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(rows):
    file = io.StringIO()
    writer = csv.DictWriter(file, ["label", "text"])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", "\n".join(map(json.dumps, ROWS))),
        ("a.jsonl", "\n\n".join(map(json.dumps, ROWS)) + "\n"),
        ("a.ndjson", "\r\n".join(map(json.dumps, ROWS))),
        ("a.csv", as_csv(ROWS)),
        ("a.csv", "\ufeff" + as_csv(ROWS)),
        ("A.CSV", as_csv(ROWS)),
        ("A.JSON", json.dumps(ROWS)),
    ],
)
def test_every_form_gives_the_same_records(tmp_path, name, content):
    assert records.read_records(write(tmp_path / name, content)) == ROWS


def test_parquet_gives_the_same_records(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert records.read_records(tmp_path / "a.parquet") == ROWS


def test_a_quote_in_a_tsv_is_a_character_unless_it_is_said_to_quote(tmp_path):
    path = write(tmp_path / "a.tsv", 'x\t"a\ny\tb"\r\nz\tc\u2028d\n')
    names = ["label", "text"]
    plain = records.read_records(path, columns=names)
    assert [row["text"] for row in plain] == ['"a', 'b"', "c\u2028d"]
    quoted = records.read_records(path, columns=names, quoted=True)
    assert [row["text"] for row in quoted] == ["a\ny\tb", "c\u2028d"]


def test_text_behind_a_closing_quote_belongs_to_the_field(tmp_path):
    path = write(tmp_path / "a.tsv", 'x\t"a" b\ny\tc "d\n')
    rows = records.read_records(path, columns=["label", "text"], quoted=True)
    assert [row["text"] for row in rows] == ["a b", 'c "d']


def test_a_field_may_be_longer_than_the_csv_module_allows(tmp_path):
    limit = csv.field_size_limit()
    text = "x" * (limit + 1)
    path = write(tmp_path / "a.csv", f"text\n{text}\n")
    assert records.read_records(path) == [{"text": text}]
    assert csv.field_size_limit() == limit


FIELDS = st.text(st.characters(exclude_categories=["Cs"]))


@given(rows=st.lists(st.tuples(FIELDS, FIELDS), min_size=1))
def test_what_is_written_as_csv_is_read_again(rows, tmp_path_factory):
    table = [{"label": a, "text": b} for a, b in rows]
    path = write(tmp_path_factory.mktemp("csv") / "a.csv", as_csv(table))
    assert records.read_records(path) == table


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "x", r"must be \.json"),
        ("a.json", "[]", "holds none"),
        ("a.jsonl", "\n", "holds none"),
        ("a.csv", "label,text\n", "holds none"),
        ("a.csv", "label,text\nham\n", "line 2 .* 2 columns, 'label', 'text', got 1"),
        ("a.csv", 'label,text\nham,"a\nb"\nx\n', "line 4 .* got 1"),
        ("a.csv", "label,label\nham,x\n", "'label', 'label'"),
        ("a.csv", 'label,text\nham,"a\nspam,b\n', "closed, .* begins in line 2"),
        ("a.json", "[1, 2", "must be JSON"),
        ("a.json", "[1]", "record 1 .* JSON object, got '1'"),
        ("a.jsonl", '{"a": 1}\n[]\n', "line 2 .* JSON object"),
        ("a.jsonl", '{"a": 1}\n{\n', "line 2 .* must be JSON"),
        ("a.tsv", b"ham\tcaf\xe9\n", "0xe9 at byte offset 7"),
        ("a.parquet", b"PAR", "cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_place(tmp_path, name, content, words):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=words):
        records.read_records(write(tmp_path / name, content))


def test_a_missing_file_and_options_of_another_form_are_errors(tmp_path):
    with pytest.raises(DataError, match="name a file that exists"):
        records.read_records(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"columns and quoted are for '\.csv', '\.tsv'"):
        records.read_records(write(tmp_path / "a.json", "[{}]"), quoted=True)


@given(n=st.integers(10, 300), hundredths=st.integers(10, 80))
def test_parts_are_the_items_in_order_and_the_last_takes_the_rest(n, hundredths):
    first = hundredths / 100
    parts = records.split(list(range(n)), (first, 0.1, 0.9 - first))
    assert [item for part in parts for item in part] == list(range(n))
    assert [len(part) for part in parts[:2]] == [hundredths * n // 100, n // 10]


def test_a_fraction_that_floating_point_makes_too_small_is_whole():
    parts = records.split(range(100), (0.29, 0.71))
    assert [len(part) for part in parts] == [29, 71]


@pytest.mark.parametrize(
    ("fractions", "words"),
    [
        ((0.5, 0.4), "sum to 1"),
        ((-0.5, 1.5), ">= 0 and sum to 1"),
        ((1.0, 0.0), "give 5, 0"),
    ],
)
def test_parts_must_be_the_whole_and_hold_something(fractions, words):
    with pytest.raises(DataError, match=words):
        records.split("abcde", fractions)


def test_batches_are_at_least_one_row_wide():
    with pytest.raises(DataError, match="batch_size must be >= 1, got 0"):
        records.batch_rows([1, 2], 0)
