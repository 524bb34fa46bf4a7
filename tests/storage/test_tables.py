"""Tables of text, and a quotation mark that is never closed."""

import csv
import io

import pytest

from trl_rsa.storage.tables import TableReader


def read(text, delimiter=","):
    return list(TableReader(io.StringIO(text, newline=""), delimiter))


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        'a,b\n"1, ""one""","two\nlines"\n3,4',
        'a,b\n5" pipe,1\n6,"x"\n',
        'a,b\n5" pipe,"two\nlines"\n',
        'a,b\n"1"x,2\n\n"",""\n',
        "",
        '"a,\nb",c\n1,2\n',
    ],
)
def test_it_reads_as_python_does(text):
    assert read(text) == list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize(
    ("text", "lines"),
    [('a,b\n1,2\n3,"four\n5,6\n7,8\n', 3), ('a,b\n1,2\n3,"four', 1), ('a,b\n5" pipe,"four\n5,6', 2)],
)
def test_a_quotation_mark_that_stays_open(text, lines):
    with pytest.raises(csv.Error, match=rf"never closed, so the last {lines} line\(s\) are one cell"):
        read(text)


def test_the_delimiter_counts():
    assert read('a;b\n1;"2;3"\n', ";") == [{"a": "1", "b": "2;3"}]
