"""OpenVLA's action tokens: exact round trips, edges, and where they lie in a vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pld_core.errors import ConfigError, ContractError
from pld_core.vla.torch.action_tokens import ActionTokens, vocabulary_end

_OPENVLA = ActionTokens(32000)


def test_every_token_comes_back() -> None:
    tokens = np.arange(_OPENVLA.first, _OPENVLA.end)
    again = _OPENVLA.encode(_OPENVLA.decode(tokens))
    np.testing.assert_array_equal(again[1:], tokens[1:])
    assert again[0] == tokens[1]  # that of exactly 1 stands for the last interval


@pytest.mark.parametrize(
    ("value", "token"), [(-1.0, 31999), (-5.0, 31999), (0.0, 31872), (1.0 - 1e-9, 31745), (1.0, 31744), (7.0, 31744)]
)
def test_known_tokens(value: float, token: int) -> None:
    """By hand: 255 intervals of 2/255 from -1 on, counted from the vocabulary's end."""
    assert _OPENVLA.encode(np.array([value])) == [token]


@given(st.floats(-1.0, 1.0), st.integers(2, 400))
def test_values_move_by_half_an_interval_at_most(value: float, bins: int) -> None:
    tokens = ActionTokens(1000, bins)
    assert abs(tokens.decode(tokens.encode(np.array([value])))[0] - value) <= 1.0 / (bins - 1) + 1e-6


def test_larger_values_have_smaller_tokens() -> None:
    assert (np.diff(_OPENVLA.encode(np.linspace(-1, 1, 1001))) <= 0).all()


def test_what_is_no_action() -> None:
    for token in (32000, 31743, 0):
        with pytest.raises(ContractError, match="31744 to 31999"):
            _OPENVLA.decode(np.array([[31800, token]]))
    with pytest.raises(ContractError, match="NaN"):
        _OPENVLA.encode(np.array([np.nan]))
    with pytest.raises(ConfigError, match=r"tokens\.bins"):
        ActionTokens(200, 256)


def test_where_the_tokens_end() -> None:
    assert vocabulary_end(32064, 64, None, 256) == 32000  # OpenVLA: Llama 2, padded by 64
    assert vocabulary_end(32064, 0, 32000, 256) == 32000  # LLaVA 1.5
    assert vocabulary_end(257216, 0, 257152, 256) == 257152  # PaliGemma
    assert vocabulary_end(32000, 0, 50, 256) == 32000  # an image token far away
