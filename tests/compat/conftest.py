"""Models in Safe RLHF's layout, as the tests of the scorers write them."""

from tests.scoring.conftest import byte_tokenizer, write_beaver


__all__ = ["byte_tokenizer", "write_beaver"]
