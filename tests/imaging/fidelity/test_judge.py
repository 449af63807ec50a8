from __future__ import annotations

import json

import pytest

from airflow_provider_bgai.imaging.fidelity import Placement, Thresholds, Verdict, compare
from tests.imaging.cutouts import jpeg, product, scene


def test_thresholds_decide():
    source = product()
    result = jpeg(scene(source), 75)
    assert compare(source, result).faithful
    strict = compare(source, result, thresholds=Thresholds(min_psnr=59.0))
    assert strict.reasons == (f"PSNR is {strict.psnr:.1f} dB (at least 59.0 dB)",)


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="max_delta_e is"):
        Thresholds(max_delta_e=value)


def test_a_verdict_goes_through_json():
    source = product()
    verdict = compare(source, jpeg(scene(source)))
    again = json.loads(json.dumps(verdict.as_dict()))
    placement = Placement(**again.pop("placement"))
    again |= {name: tuple(again[name]) for name in ("reasons", "outlines")}
    assert Verdict(placement=placement, **again) == verdict
