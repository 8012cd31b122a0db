"""`stages: auto`: as quick and as small as even stages at least, for whatever is divided."""

from hypothesis import given, settings

from tests.yuan_parallel.cases import SIZES, cases, division, training
from yuan_manifest.schema import Recompute
from yuan_parallel import Devices, Division, Prediction, Training
from yuan_parallel.planner import planned_stages

ROUNDING = 1 + 1e-9


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_planner_is_never_worse_than_even_stages(case: tuple[Training, Division, Devices]) -> None:
    drawn, even, devices = case
    found = even.with_stages(planned_stages(drawn, even, devices))
    before, after = Prediction(drawn, even, devices), Prediction(drawn, found, devices)
    assert found.stages.total == drawn.network.num_hidden_layers
    assert after.peak <= before.peak * ROUNDING
    assert after.fits or not before.fits
    if before.fits and after.fits:
        assert after.seconds.total <= before.seconds.total * ROUNDING


def test_the_published_102b_model_is_divided_much_as_its_authors_did() -> None:
    published = (2,) * 10 + (3,) * 20 + (2,) * 2
    drawn = training(
        network=SIZES["102b"],
        sequence_length=4096,
        global_batch_size=1152,
        micro_batch_size=1,
        recompute=Recompute.full,
    )
    devices = Devices(12, 8, 80.0 * 2**30, 171.6e12, 312e12, 300e9, 25e9)
    even = division(pipeline=32, data=3, layers=84)
    found = planned_stages(drawn, even, devices).layers
    assert max(found) == 3
    assert found[:10] == published[:10]
    assert sum(mine != theirs for mine, theirs in zip(found, published, strict=True)) <= 2
    by_planner, by_authors, by_rule = (
        Prediction(drawn, stages, devices)
        for stages in (
            even.with_stages(type(even.stages)(found)),
            even.with_stages(type(even.stages)(published)),
            even,
        )
    )
    assert by_planner.seconds.total < by_authors.seconds.total * 1.005
    assert by_planner.seconds.total < 0.9 * by_rule.seconds.total


def test_the_stage_with_the_logits_of_a_large_vocabulary_has_fewer_layers() -> None:
    network = type(SIZES["2b"])(135040, 1024, 16, 16, 2816, 2048)
    drawn = training(network=network, sequence_length=2048, micro_batch_size=1)
    found = planned_stages(drawn, division(pipeline=4, layers=16), Devices(1, 4, None, 1e14, 1e14, 1e11, 1e11))
    assert found.layers[-1] < 4
    assert found.total == 16


def test_where_even_stages_do_not_fit_memory_decides() -> None:
    drawn = training(
        network=type(SIZES["2b"])(32000, 1024, 16, 16, 2816, 8192), sequence_length=8192, micro_batch_size=4
    )
    even = division(pipeline=4, layers=16)
    peak = Prediction(drawn, even, Devices(1, 4, None, 1e14, 1e14, 1e11, 1e11)).peak
    smaller = Devices(1, 4, 0.9 * peak, 1e14, 1e14, 1e11, 1e11)
    found = Prediction(drawn, even.with_stages(planned_stages(drawn, even, smaller)), smaller)
    assert found.fits
    assert found.division.stages.layers[0] < 4
