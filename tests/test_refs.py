"""pytest tests/test_refs.py"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.errors import InvalidRef
from artifacts.refs import KINDS, Ref, check_name

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,99}", fullmatch=True)
versions = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)


@given(st.builds(Ref, st.sampled_from(KINDS), names, versions))
def test_what_is_written_is_read_back(ref):
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "champion",
        "weights/shoes",
        "weights/shoes@3f9a",
        "models/shoes@3f9a1c20d4b7e815",
        "weights/../x@3f9a1c20d4b7e815",
        "weights/Shoes@3f9a1c20d4b7e815",
        "weights/shoes@3F9A1C20D4B7E815",
        "weights/shoes@3f9a1c20d4b7e815\n",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(InvalidRef, match="expected a ref like weights/fashion-mnist@3f9a1c20d4b7e815, found"):
        Ref.parse(text)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "Ä", "x" * 101])
def test_names_that_could_be_no_folder_are_refused(name):
    with pytest.raises(InvalidRef, match="expected a name of a-z"):
        check_name(name)
