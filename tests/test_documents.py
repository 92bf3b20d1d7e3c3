"""pytest tests/test_documents.py"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts.documents import canonical, digest, seal, unseal
from artifacts.errors import Corrupt

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text().filter(lambda key: key != "checksum"), values, max_size=4)


@given(documents)
def test_a_document_comes_back(document):
    assert unseal(seal(document), "key") == document


def test_canonical_json_is_sorted_and_dense():
    assert canonical({"b": [1, 2.5], "a": "ä"}) == '{"a":"ä","b":[1,2.5]}'.encode()
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_every_flipped_bit_is_noticed():
    sealed = seal({"number": 7, "reason": "better: 86.4 % of 10,000", "ratio": 0.5, "none": None})
    for index in range(len(sealed)):
        for bit in range(8):
            flipped = bytearray(sealed)
            flipped[index] ^= 1 << bit
            with pytest.raises(Corrupt, match="manifest.json is damaged"):
                unseal(bytes(flipped), "manifest.json")


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b'{"checksum": 1}', b"\xff\xfe", b"[" * 10_000])
def test_what_is_no_document_is_refused(content):
    with pytest.raises(Corrupt, match="key is damaged"):
        unseal(content, "key")
