"""The sheets are complete, consistent with each other and findable."""

import re

import pytest

from cutset.errors import UsageError
from cutset.profilers.datasheets import PRECISIONS, datasheet, datasheets

SHEETS = list(datasheets().values())
KNOWN = ["t4", "l4", "a10", "a100", "h100", "h200", "rtx4090", "orin"]


def test_every_promised_target_has_a_sheet():
    assert [sheet.id for sheet in SHEETS] == KNOWN
    assert all(datasheet(name) is datasheets()[name] for name in KNOWN)


def test_an_unknown_target_lists_the_known_ones():
    with pytest.raises(UsageError) as caught:
        datasheet("v100")
    assert all(name in str(caught.value.hint) for name in KNOWN)
    assert "v100" in caught.value.what


@pytest.mark.parametrize("sheet", SHEETS, ids=KNOWN)
def test_numbers_are_plausible(sheet):
    assert re.fullmatch(r"\d+\.\d", sheet.compute_capability)
    assert 1e12 < sheet.fp32_flops <= 1e14
    assert 8e9 <= sheet.memory_bytes < 2e11
    assert 1e11 < sheet.memory_bytes_per_s < 1e13
    assert 1e9 < sheet.link.d2h_bytes_per_s < sheet.memory_bytes_per_s
    assert 1e9 < sheet.link.h2d_bytes_per_s < 64e9
    assert 1e-6 < sheet.kernel_launch_s < 1e-4
    assert 1e-6 < sheet.link.fixed_s < 1e-4
    assert sheet.sources
    assert all(source.title and source.of for source in sheet.sources)


@pytest.mark.parametrize("sheet", SHEETS, ids=KNOWN)
def test_rates_are_dense(sheet):
    """Dense int8 is twice dense fp16 (four times with fp32 accumulation on GeForce); a sparse rate would show."""
    assert sheet.int8_ops / sheet.fp16_flops == pytest.approx(4 if sheet.id == "rtx4090" else 2, rel=0.02)
    if sheet.tf32_flops is not None:
        assert sheet.fp16_flops / sheet.tf32_flops == pytest.approx(2, rel=0.02)
    if sheet.bf16_flops is not None:
        assert sheet.bf16_flops == sheet.fp16_flops


def test_turing_has_neither_bf16_nor_tf32():
    t4 = datasheet("t4")
    assert t4.matrix_flops("tf32") == t4.fp32_flops
    with pytest.raises(UsageError, match="bf16"):
        t4.matrix_flops("bf16")


def test_every_precision_has_a_rate_on_the_newer_ones():
    for sheet in SHEETS[1:]:
        assert all(sheet.matrix_flops(precision) > 0 for precision in PRECISIONS)
