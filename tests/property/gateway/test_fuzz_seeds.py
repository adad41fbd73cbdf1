"""The fuzzer's laws over its seeds, and over seeds with one stroke each, without the fuzzer."""

import random
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

_SPEC = spec_from_file_location("gateway_fuzz_framing", Path(__file__).with_name("fuzz_framing.py"))
fuzz = module_from_spec(_SPEC)
_SPEC.loader.exec_module(fuzz)
SEEDS = fuzz.seeds()


@pytest.mark.parametrize("law", range(len(fuzz.LAWS)))
def test_the_laws_hold_for_the_seeds_and_for_strokes_of_them(law):
    strokes = random.Random(6 + law)
    mine = [seed for seed in SEEDS if seed[0] % len(fuzz.LAWS) == law]
    assert len(mine) >= 10
    for seed in mine:
        fuzz.run(seed)
        raw = bytearray(seed)
        at = strokes.randrange(fuzz.HEADER, len(raw) + 1)
        raw[at : at + strokes.randrange(3)] = strokes.choice(
            [b"\r", b"\n", b"\r\n", b"\0", b" ", b"0", b";", b",", b":"]
        )
        fuzz.run(bytes(raw))
